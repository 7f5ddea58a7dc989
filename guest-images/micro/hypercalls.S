# Hypercalls, of which KVM would answer some by itself and with the host's clock: those of the kernel
# are not known to anybody, those of user mode are not allowed, and none writes memory.
    .include "micro.inc"
    GUEST "hypercalls", 64          # rounds

    .equ HC_CLOCK_PAIRING, 9
    .equ ENOSYS, -1000              # KVM_ENOSYS
    .equ EPERM, -1                  # KVM_EPERM
    .equ UNTOUCHED, 0x5a
    .equ PAIRING_BYTES, 64

.macro PAIR_CLOCKS instruction, answer, check
    mov eax, HC_CLOCK_PAIRING
    mov ebx, offset pairing
    xor ecx, ecx                    # KVM_CLOCK_PAIRING_WALLCLOCK
    \instruction
    cmp rax, \answer
    \check e, "the answer to \instruction"
.endm

main:
    mov edi, offset pairing
    mov ecx, PAIRING_BYTES
    mov al, UNTOUCHED
    rep stosb
    mov ecx, HZ_1000
    call start_timer
    # Which of the two this processor has for user mode.
    xor eax, eax
    cpuid
    cmp ebx, 0x756e6547             # "Genu"
    mov edi, offset user_vmmcall
    mov eax, offset user_vmcall
    cmove edi, eax
    mov r13, rdi
    mov r12, [work]
again:
    PAIR_CLOCKS vmcall, ENOSYS, CHECK
    PAIR_CLOCKS vmmcall, ENOSYS, CHECK
    sti
    POLL
    cli
    mov rdi, r13
    call run_user
    cmp rax, UNTOUCHED
    CHECK e, "the word of user mode"
    dec r12
    jnz again
    UNTIL_INTERRUPTED again_once
    mov esi, offset pairing
    mov ecx, PAIRING_BYTES
1:  lodsb
    cmp al, UNTOUCHED
    CHECK e, "a hypercall wrote memory"
    dec ecx
    jnz 1b
    ret
again_once:
    mov r12d, 1
    jmp again

    .section .user
user_vmcall:
    PAIR_CLOCKS vmcall, EPERM, USER_CHECK
    jmp user_end
user_vmmcall:
    PAIR_CLOCKS vmmcall, EPERM, USER_CHECK
user_end:
    mov edi, UNTOUCHED
    mov eax, USER_DONE
    int VECTOR_USER
    .balign 8
pairing: .skip PAIRING_BYTES
