# SYSCALL and SYSRET, the call gate of `int`, and interrupts on both sides of them. User mode checks
# what it can see of its flags: a host that steps through the program must not show its trap flag.
    .include "micro.inc"
    GUEST "system-calls", 6000      # calls of each kind

    .equ MSR_EFER, 0xc0000080
    .equ MSR_STAR, 0xc0000081
    .equ MSR_LSTAR, 0xc0000082
    .equ MSR_SFMASK, 0xc0000084
    .equ EFER_SCE, 1

    .equ VECTOR_STEP, 0x81

    .equ FLAGS_CLEARED, 0x4700      # by SYSCALL: NT, DF, IF, TF
    .equ TRAP_FLAG, 0x100
    .equ INTERRUPT_FLAG, 0x200

.macro WRITE_MSR index, high, low
    mov ecx, \index
    mov edx, \high
    mov eax, \low
    wrmsr
.endm

main:
    GATE VECTOR_STEP, step_by_interrupt, USER_GATE
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_SCE
    wrmsr
    # SYSRET takes its selectors at 16 and 8 above bits 48 to 63 of STAR.
    WRITE_MSR MSR_STAR, (USER_DATA-8)<<16|KERNEL_CODE, 0
    WRITE_MSR MSR_LSTAR, 0, "offset step_by_syscall"
    WRITE_MSR MSR_SFMASK, 0, FLAGS_CLEARED
    mov ecx, HZ_1000
    call start_timer
    mov rax, [work]
    mov [user_work], rax
    mov edi, offset user
    call run_user

    # Both kinds of calls have made all their steps.
    mov rbx, rax
    mov rcx, [user_calls]
    movabs rax, LCG_SEED
    call lcg_after
    cmp rax, rbx
    CHECK e, "the result of the calls"
    ret

# Both calls: a step of the generator from state RDI, in RAX. Every 16th lets interrupts in.
.macro STEP
    movabs rax, LCG_FACTOR
    imul rax, rdi
    movabs rdx, LCG_ADD
    add rax, rdx
    inc dword ptr [calls]
    test dword ptr [calls], 15
    jnz 1f
    mov rdx, rax
    sti
    POLL_UNLESS_QUIET
    cli
    mov rax, rdx
1:
.endm

step_by_syscall:
    mov [user_stack], rsp
    mov rsp, offset interrupt_stack_top
    push rcx
    pushf
    test dword ptr [rsp], FLAGS_CLEARED
    CHECK z, "flags after SYSCALL"
    add rsp, 8
    STEP
    pop rcx
    mov rsp, [user_stack]
    sysretq

step_by_interrupt:
    STEP
    iretq

    .data
    .balign 8
user_stack: .quad 0
calls: .long 0

    .section .user
    .balign 8
user_work: .quad 0
user_calls: .quad 0
user:
    movabs rdi, LCG_SEED
    mov r13d, REPETITIONS_MAX
again:
    mov r12, [user_work]
    lea rax, [r12 + r12]
    add [user_calls], rax
1:  stc
    syscall
after_syscall:
    USER_CHECK c, "the carry flag after a SYSCALL"
    cmp rcx, offset after_syscall
    USER_CHECK e, "RCX after a SYSCALL"
    test r11d, TRAP_FLAG
    USER_CHECK z, "the trap flag shows in R11"
    test r11d, INTERRUPT_FLAG
    USER_CHECK nz, "interrupts were on, but not in R11"
    mov rdi, rax
    pushf
    pop rbx
    test ebx, TRAP_FLAG
    USER_CHECK z, "the trap flag shows on the stack"
    int VECTOR_STEP
    mov rdi, rax
    dec r12
    jnz 1b
    dec r13d
    USER_CHECK nz, "too few timer interrupts"
    mov rax, [ticks]
    cmp rax, [ticks_wanted]
    jb again
    mov eax, USER_DONE
    int VECTOR_USER
