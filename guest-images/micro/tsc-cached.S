# Reads of the time stamp counter that ftvm makes reads of a copy: those that look like Linux's, with
# room for a jump. They never go backwards, among themselves, against user mode and against what
# interrupts read; they change no flag and no other register; and time does not stand still.
    .include "micro.inc"
    GUEST "tsc-cached", 20000       # reads

    .equ ALLOWED, 64                # reads without an exit
    .equ SAMPLES_ALLOWED, 4

# `struct alt_instr` of Linux 6.1 (arch/x86/include/asm/alternative.h).
.macro LISTED read, replacement, end
    .long \read - .
    .long \replacement - .
    .word 0                         # a feature
    .byte 5                         # length of the read
    .byte \end - \replacement
.endm

# A read that Linux would patch: `rdtsc_ordered` (arch/x86/include/asm/msr.h).
.macro READ_ORDERED
.Lread\@:
    rdtsc
    nop
    nop
    nop
    .pushsection .altinstructions, "a"
    LISTED .Lread\@, .Lfenced\@, .Lrdtscp\@
    LISTED .Lread\@, .Lrdtscp\@, .Lend\@
    .popsection
    .pushsection .altinstr_replacement, "ax"
.Lfenced\@:
    lfence
    rdtsc
.Lrdtscp\@:
    rdtscp
.Lend\@:
    .popsection
.endm

    .section .altinstr_replacement, "ax"
first_replacement:
    .text

# What Linux's linker leaves between functions, and the page that ftvm uses.
    .fill 4096, 1, 0xcc
    .section .data_nosave, "aw"
    .skip 4096
    .text

main:
    # It is a jump where it is and where Linux would copy it from, to the same place.
    mov edi, offset ordered
    mov esi, offset first_replacement
    cmp byte ptr [rdi], 0xe9
    CHECK e, "the read is no jump"
    cmp byte ptr [rsi], 0xe9
    CHECK e, "the replacement of the read is no jump"
    mov eax, [rsi + 1]
    add eax, esi
    sub eax, edi
    cmp eax, [rdi + 1]
    CHECK e, "the read and its replacement jump to different places"

    mov qword ptr [tick_hook], offset read_in_interrupt
    mov ecx, HZ_1000
    call start_timer
    xor ebx, ebx
    xor r13d, r13d                  # reads that gave what the one before gave
    mov r12, [work]
    sti
1:  mov rbp, rsp
    mov ecx, 0x12345678
    stc
    call ordered
    CHECK c, "a read changed a flag"
    cmp ecx, 0x12345678
    CHECK e, "a read changed ECX"
    cmp rbp, rsp
    CHECK e, "a read changed RSP"
    mov rsi, rax
    or rsi, rdx
    shr rsi, 32
    CHECK z, "a read left something in the upper half of RAX or RDX"
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    CHECK ae, "the counter went backwards"
    jne 2f
    inc r13
2:  mov rbx, rax
    mov [last_read], rax
    xor r14, rax
    rol r14
    dec r12
    jnz 1b
    MIX r14
    MIX r13

    mov rax, [work]
    mov rcx, rax
    shr rcx
    cmp r13, rcx
    CHECK a, "less than half of the reads were cached"
    sub rax, r13                    # reads that gave something new
    inc rax
    imul rax, rax, ALLOWED + 1
    cmp rax, [work]
    CHECK ae, "time stood still for too many reads"

    # Reads for the sake of randomness.
    mov r12, 1000
    xor ebp, ebp                    # that are the same in a row
1:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    CHECK ae, "the counter went backwards between samples"
    mov rbx, rax
    je 2f
    mov ebp, -1
2:  inc ebp
    cmp ebp, SAMPLES_ALLOWED
    CHECK be, "too many samples are the same"
    dec r12
    jnz 1b
    cmp byte ptr [sample], 0xe9
    CHECK e, "the sample is no jump"
    MIX rbx

    mov [user_counter], rbx
    mov edi, offset user
    call run_user
    MIX rax
    call ordered
    shl rdx, 32
    or rax, rdx
    cmp rax, [user_counter]
    CHECK ae, "the counter went backwards from user mode to the kernel"
    cmp qword ptr [ticks], 1
    CHECK ae, "no timer interrupt"
    ret

# The counter in EDX:EAX, without a change of the flags.
ordered:
    READ_ORDERED
    ret

# What can be moved along reads the upper half of the counter.
sample:
    rdtsc
    mov rsi, rdx
    ret

# What an interrupt reads is not before what anybody has read by then.
read_in_interrupt:
    READ_ORDERED
    shl rdx, 32
    or rax, rdx
    cmp rax, [last_read]
    CHECK ae, "an interrupt saw a time before that of the code that it interrupted"
    cmp rax, [last_tick]
    CHECK ae, "the counter went backwards between interrupts"
    mov [last_tick], rax
    MIX rax
    ret

    .data
    .balign 8
last_read: .quad 0
last_tick: .quad 0

    .section .user
    .balign 8
user_counter: .quad 0
user:
    mov rbx, [user_counter]
    mov r12d, 100
1:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    USER_CHECK ae, "the counter went backwards in user mode"
    mov rbx, rax
    dec r12
    jnz 1b
    mov [user_counter], rbx
    mov rdi, rbx
    mov eax, USER_DONE
    int VECTOR_USER
