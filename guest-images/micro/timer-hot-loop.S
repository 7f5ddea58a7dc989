# The timer interrupt in loops without a single exit, in the kernel and in user mode. Who delivers
# interrupts only at exits never gets out of them; the loops end themselves after too many rounds.
    .include "micro.inc"
    GUEST "timer-hot-loop", 20      # ticks in each loop

    .equ ROUNDS_MAX, 2000000000

# Steps the generator until there were R12 ticks; R11, the rounds, must stay below the bound. Takes
# one way or another through each round, so that rounds differ in their instructions too.
.macro COMPUTE
    xor r11d, r11d
    movabs r8, LCG_SEED
    LCG_CONSTANTS
1:  LCG r8
    inc r11
    test r8, r8
    js 2f
    add r14, r8
    jmp 3f
2:  xor r14, r8
    rol r14, 5
3:  cmp r11, ROUNDS_MAX
    jae 4f
    cmp [ticks], r12
    jb 1b
4:
.endm

main:
    mov ecx, HZ_20
    call start_timer

    mov r12, [work]
    sti
    COMPUTE
    cli
    cmp r11, ROUNDS_MAX
    CHECK b, "no timer interrupt in a loop of the kernel"
    MIX r14
    mov rdi, r11
    mov rsi, r8
    call check_generator

    # Only memory changes in this loop: registers are the same in every round.
    add r12, [work]
    mov [last_tick], r12
    mov qword ptr [tick_hook], offset watch_counter
    sti
1:  inc dword ptr [counter]
    cmp dword ptr [counter], ROUNDS_MAX
    jae 2f
    cmp byte ptr [enough], 0
    je 1b
2:  cli
    mov qword ptr [tick_hook], 0
    cmp dword ptr [counter], ROUNDS_MAX
    CHECK b, "no timer interrupt in a loop that changes only memory"
    mov rax, [counter]
    MIX rax

    mov rax, [ticks]
    add rax, [work]
    mov [user_ticks_wanted], rax
    mov edi, offset user
    call run_user
    mov rsi, rax
    mov rdi, [user_rounds]
    call check_generator
    mov rax, [user_result]
    MIX rax
    ret

# Tick hook: adds the loop's counter, and ends the loop.
watch_counter:
    mov rax, [counter]
    MIX rax
    mov rax, [ticks]
    cmp rax, [last_tick]
    setae [enough]
    ret

# RSI must be the generator's state after RDI rounds.
check_generator:
    movabs rax, LCG_SEED
    mov rcx, rdi
    call lcg_after
    cmp rax, rsi
    CHECK e, "a register changed over an interrupt"
    ret

    .data
    .balign 8
counter: .quad 0
last_tick: .quad 0
enough: .byte 0

    .section .user
    .balign 8
user_ticks_wanted: .quad 0
user_rounds: .quad 0
user_result: .quad 0
user:
    mov r12, [user_ticks_wanted]
    COMPUTE
    cmp r11, ROUNDS_MAX
    USER_CHECK b, "no timer interrupt in a loop in user mode"
    mov [user_rounds], r11
    mov [user_result], r14
    mov rdi, r8
    mov eax, USER_DONE
    int VECTOR_USER
