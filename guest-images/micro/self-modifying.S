# Code that changes while it runs: by itself, by the timer interrupt, in the next instruction, and
# in a page that is filled again and again.
    .include "micro.inc"
    GUEST "self-modifying", 4000    # rounds

    .equ CODE_PAGE, 0x800000
    .equ FUNCTION_BYTES, 6          # of function_0 and function_1

main:
    mov qword ptr [tick_hook], offset patch_constant
    mov ecx, HZ_1000
    call start_timer
    LCG_CONSTANTS
    movabs r8, LCG_SEED
    xor r14d, r14d                  # what the changing code computes
    xor r15d, r15d                  # the same, computed by code that stays
    sti
again:
    mov r12, [work]
round:
    LCG r8

    # The timer interrupt writes the number of ticks into the code of `ticks_in_code`.
    mov ebx, [ticks]
    call ticks_in_code
    mov ebp, [ticks]
    cmp eax, ebx
    CHECK ae, "code that an interrupt changed is old"
    cmp ebp, eax
    CHECK ae, "code that an interrupt changed is from the future"

    # The next instruction.
    mov rcx, r8
    shr rcx, 33
    mov [next_instruction + 1], ecx
next_instruction:
    mov eax, 0
    cmp eax, ecx
    CHECK e, "the next instruction is old"

    # Another operation, by another ModRM byte and another constant.
    mov rdx, r8
    shr rdx, 60
    and edx, 3
    movzx eax, byte ptr [operations + rdx]
    movsx rsi, cl
    mov [operation + 2], al
    mov [operation + 3], sil
    call operation
    cmp edx, 1
    je 1f
    cmp edx, 2
    je 2f
    jb 3f
    cmp r15, rsi                    # 3: a comparison changes nothing
    jmp 4f
1:  sub r15, rsi
    jmp 4f
2:  xor r15, rsi
    jmp 4f
3:  add r15, rsi
4:  cmp r14, r15
    CHECK e, "a changed operation is old"
    rol r14, 3
    rol r15, 3

    # One of two functions, copied to the same place.
    mov esi, offset function_0
    mov edi, CODE_PAGE
    test edx, 1
    jz 5f
    mov esi, offset function_1
5:  push rdi
    mov ecx, FUNCTION_BYTES
    rep movsb
    pop rdi
    call rdi
    cmp eax, edx
    CHECK e, "a copied function is old"

    test r12d, 15
    jnz 6f
    POLL_UNLESS_QUIET
6:  MIX r14
    dec r12
    jnz round
    UNTIL_INTERRUPTED again
    ret

# Tick hook: writes the number of ticks into an instruction.
patch_constant:
    mov eax, [ticks]
    mov [ticks_in_code + 1], eax
    ret

ticks_in_code:
    mov eax, 0
    ret

operation:
    add r14, 0x11                   # 49 83 ModRM constant
    ret

# Both return the value of EDX: each for another parity.
function_0:
    mov eax, edx
    and eax, 2
    ret
function_1:
    mov eax, edx
    or eax, 1
    ret
    .if . - function_1 != FUNCTION_BYTES || function_1 - function_0 != FUNCTION_BYTES
    .error "FUNCTION_BYTES is wrong"
    .endif

    .section .rodata
operations: .byte 0xc6, 0xee, 0xf6, 0xfe    # ADD, SUB, XOR, CMP of R14
