# The time stamp counter, read in the kernel and in user mode, by RDTSC and RDTSCP. It never goes
# backwards, nothing else changes, and other faults than those of counter reads reach the guest.
    .include "micro.inc"
    GUEST "tsc", 1000               # reads of each kind

# The counter of EDX:EAX must not be before RBX, and becomes RBX; it goes into the hash R14.
.macro TAKE_COUNTER check
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    \check ae, "the counter went backwards"
    mov rbx, rax
    xor r14, rax
    LCG r14
.endm

main:
    mov ecx, HZ_1000
    call start_timer
    LCG_CONSTANTS

    xor ebx, ebx
    mov r12, [work]
    sti
1:  rdtsc
    TAKE_COUNTER CHECK
    dec r12
    jnz 1b
    # Back to back, and with interrupts off.
    cli
    rdtsc
    mov esi, eax
    mov edi, edx
    rdtsc
    sub eax, esi
    sbb edx, edi
    CHECK ae, "the counter went backwards between two reads"
    MIX rax
    MIX r14

    mov qword ptr [protection_fault_hook], offset refused
    mov [user_counter], rbx
    mov rax, [work]
    mov [user_work], rax
    mov edi, offset user
    call run_user
    MIX rax
    cmp dword ptr [refusals], 2
    CHECK e, "faults in user mode that are no counter reads"

    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, [user_counter]
    CHECK ae, "the counter went backwards from user mode to the kernel"
    ret

# #GP handler: only for the two privileged instructions of the user program, one byte each.
refused:
    cmp qword ptr [rsp], 0
    CHECK e, "error code of a privileged instruction"
    cmp qword ptr [rsp + 8], offset privileged_1
    je 1f
    cmp qword ptr [rsp + 8], offset privileged_2
    CHECK e, "a fault in user mode that is none of the guest's"
1:  inc dword ptr [refusals]
    inc qword ptr [rsp + 8]
    add rsp, 8
    iretq

    .data
refusals: .long 0

    .section .user
    .balign 8
user_counter: .quad 0
user_work: .quad 0
user:
    LCG_CONSTANTS
    mov rbx, [user_counter]
    xor r14d, r14d
    mov r12, [user_work]
1:  mov ecx, 0x12345678
    mov rsi, rsp
    stc
    rdtsc
    USER_CHECK c, "RDTSC in user mode changed a flag"
    cmp ecx, 0x12345678
    USER_CHECK e, "RDTSC in user mode changed ECX"
    cmp rsi, rsp
    USER_CHECK e, "RDTSC in user mode changed RSP"
    TAKE_COUNTER USER_CHECK
    dec r12
    jnz 1b
privileged_1:
    cli
    mov r12, [user_work]
1:  mov ecx, 0x12345678
    rdtscp
    test ecx, ecx
    USER_CHECK z, "RDTSCP is not on processor 0"
    TAKE_COUNTER USER_CHECK
    dec r12
    jnz 1b
    # An invalid opcode on processors without it.
    mov rsi, -1
    rdpid rsi
    test rsi, rsi
    USER_CHECK z, "RDPID is not on processor 0"
privileged_2:
    hlt
    jmp across_pages

    # An instruction that lies in two pages.
    .balign 4096
    .skip 4095 - 3
across_pages:
    nop
    nop
    nop
    rdtsc
    TAKE_COUNTER USER_CHECK
    mov [user_counter], rbx
    mov rdi, r14
    mov eax, USER_DONE
    int VECTOR_USER
