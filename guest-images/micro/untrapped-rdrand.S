# RDRAND, which the processor model hides and cannot trap. This guest is NOT deterministic on
# purpose: a replay of it must be found to differ.
    .include "micro.inc"
    GUEST "untrapped-rdrand", 16    # random numbers

main:
    mov r12, [work]
    mov ebx, offset numbers
1:  mov ecx, 10                     # the manuals: it may fail, but hardly ten times
2:  rdrand rax
    jc 3f
    dec ecx
    jnz 2b
    FAIL "no random number"
3:  mov r13, r12
    and r13d, 511
    mov [rbx + 8 * r13], rax
    MIX rax
    dec r12
    jnz 1b
    ret

    .bss
    .balign 4096
numbers: .skip 4096
