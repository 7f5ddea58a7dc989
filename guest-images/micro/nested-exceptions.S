# Exceptions in exception handlers and in the timer's handler, interrupts in exception handlers, a
# fault while another is delivered, and a double fault. From the kernel and from user mode.
    .include "micro.inc"
    .include "paging.inc"
    GUEST "nested-exceptions", 300  # rounds

    .equ BAD_SELECTOR, 0xfff8       # beyond the GDT
    .equ NOT_MAPPED, KERNEL_REGION + 0x123456000

# Lets interrupts in, with an exit for them to come with. Changes AL.
.macro LET_INTERRUPTS_IN
    sti
    POLL
    nop
    cli
.endm

main:
    GATE VECTOR_DE, division_error
    GATE VECTOR_BP, breakpoint, USER_GATE
    GATE VECTOR_UD, invalid_opcode
    GATE VECTOR_DF, double_fault, INTERRUPT_GATE + ON_FAULT_STACK
    GATE VECTOR_PF, page_fault
    mov qword ptr [protection_fault_hook], offset general_protection
    mov qword ptr [tick_hook], offset fault_in_interrupt
    mov ecx, HZ_1000
    call start_timer
    mov r12, [work]
round:
    # From the kernel: #GP -> #PF -> #BP -> #DE -> #UD, each raised by the handler before, each of
    # which lets interrupts in.
    mov dword ptr [chain], 0
    mov eax, BAD_SELECTOR
    sti
    mov ds, eax
    cli
    cmp dword ptr [chain], 0x12345
    CHECK e, "the chain of handlers in the kernel"

    # From user mode: #UD, whose handler starts the same chain.
    mov dword ptr [chain], 0
    mov edi, offset user
    call run_user
    cmp rax, r12
    CHECK e, "a register changed over the chain of handlers"
    cmp dword ptr [chain], 0x12345
    CHECK e, "the chain of handlers below user mode"

    # The stack is not there: #UD cannot be delivered, nor can the #PF that this raises.
    mov qword ptr [double_faults], 0
    mov [good_stack], rsp
    movabs rsp, NOT_MAPPED
    ud2
after_double_fault:
    mov rsp, [good_stack]
    cmp qword ptr [double_faults], 1
    CHECK e, "double fault"

    dec r12
    jnz round
    cmp qword ptr [faults_in_interrupts], 0
    CHECK ne, "no timer interrupt"
    ret

# Each handler adds its number to [chain] on its way back.
.macro CHAIN number
    mov eax, [chain]
    shl eax, 4
    or eax, \number
    mov [chain], eax
.endm

# The handlers go on behind the instruction that faulted, whose length they know.

# #GP of the bad selector: the handler faults on a page.
general_protection:
    PUSH_ALL
    cmp qword ptr [rsp + SAVED_RIP], BAD_SELECTOR   # error code
    CHECK e, "error code of a bad selector"
    LET_INTERRUPTS_IN
    movabs rbx, NOT_MAPPED
    mov rax, [rbx]
    CHAIN 5
    POP_ALL
    add rsp, 8
    add qword ptr [rsp], 2
    iretq

# #PF: the handler meets a breakpoint.
page_fault:
    PUSH_ALL
    movabs rax, NOT_MAPPED
    mov rbx, cr2
    cmp rax, rbx
    CHECK e, "address of a page fault"
    cmp qword ptr [rsp + SAVED_RIP], 0
    CHECK e, "error code of a page fault"
    LET_INTERRUPTS_IN
    int3
    CHAIN 4
    POP_ALL
    add rsp, 8
    add qword ptr [rsp], 3
    iretq

# #BP, a trap: the handler divides by zero.
breakpoint:
    PUSH_ALL
    LET_INTERRUPTS_IN
    xor edx, edx
    xor ecx, ecx
    mov eax, 1
    div ecx
    CHAIN 3
    POP_ALL
    iretq

# #DE: the handler executes an invalid instruction.
division_error:
    PUSH_ALL
    LET_INTERRUPTS_IN
    ud2
    CHAIN 2
    add qword ptr [rsp + SAVED_RIP], 2
    POP_ALL
    iretq

# #UD: the end of the chain in the kernel; from user mode, its start.
invalid_opcode:
    PUSH_ALL
    add qword ptr [rsp + SAVED_RIP], 2
    test byte ptr [rsp + SAVED_RIP + 8], 3      # CS
    jnz 1f
    inc qword ptr [undefined]
    cmp byte ptr [in_interrupt], 0
    jne 2f
    LET_INTERRUPTS_IN
    CHAIN 1
2:  POP_ALL
    iretq
1:  LET_INTERRUPTS_IN
    mov eax, BAD_SELECTOR
    mov ds, eax
    jmp 2b

# #DF, on a stack of its own: an abort, from which this guest returns all the same.
double_fault:
    cmp qword ptr [rsp], 0
    CHECK e, "error code of a double fault"
    inc qword ptr [double_faults]
    add rsp, 8
    mov qword ptr [rsp], offset after_double_fault
    iretq

# Tick hook: an exception in the handler of an interrupt.
fault_in_interrupt:
    mov byte ptr [in_interrupt], 1
    mov rax, [undefined]
    ud2
    mov byte ptr [in_interrupt], 0
    inc rax
    cmp rax, [undefined]
    CHECK e, "an exception in the handler of an interrupt"
    inc qword ptr [faults_in_interrupts]
    ret

    .data
    .balign 8
chain: .quad 0
undefined: .quad 0
double_faults: .quad 0
faults_in_interrupts: .quad 0
good_stack: .quad 0
in_interrupt: .byte 0

    .section .user
user:
    mov rdi, r12
    ud2
    mov eax, USER_DONE
    int VECTOR_USER
