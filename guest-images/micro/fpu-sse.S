# The floating point unit and SSE: a computation in x87 and XMM registers, in each rounding mode,
# comes out the same with interrupts as without. The timer's handler saves the state, adds all of it
# to the trace, uses the registers for something else, and restores it. Beside that: the fault of the
# first use after CR0.TS was set, and an unmasked x87 exception.
    .include "micro.inc"
    GUEST "fpu-sse", 3000           # steps of each computation

    .equ FXSAVE_BYTES, 512
    .equ RESULT_BYTES, 512
    .equ MXCSR_MASKED, 0x1f80       # all exceptions masked
    .equ FCW_EXTENDED, 0x033f       # all exceptions masked, 64 bits of precision; no bit 6, which
                                    # FXSAVE may show as set
    .equ MODES, 4

    .equ CR0_TS, 8

main:
    GATE VECTOR_NM, not_available
    GATE VECTOR_MF, floating_point_error
    mov qword ptr [tick_hook], offset use_registers

    # Without interrupts.
    xor r15d, r15d
1:  mov r14, r15
    imul r14, r14, RESULT_BYTES
    add r14, offset expected
    call compute
    inc r15d
    cmp r15d, MODES
    jb 1b

    # The rounding modes must make a difference, or this test cannot fail.
    mov esi, offset expected
    mov edi, offset expected + RESULT_BYTES
    mov ecx, RESULT_BYTES
    repe cmpsb
    CHECK ne, "rounding modes make no difference"

    mov ecx, HZ_1000
    call start_timer
again:
    xor r15d, r15d
    mov dword ptr [not_available_faults], 0
    mov dword ptr [fpu_errors], 0
2:  mov r14d, offset result
    mov rax, cr0
    or eax, CR0_TS
    mov cr0, rax
    sti
    call compute
    cli
    mov rsi, r15
    imul rsi, rsi, RESULT_BYTES
    add rsi, offset expected
    mov edi, offset result
    mov ecx, RESULT_BYTES
    repe cmpsb
    CHECK e, "a computation came out different with interrupts"
    inc r15d
    cmp r15d, MODES
    jb 2b
    cmp dword ptr [not_available_faults], MODES
    CHECK e, "faults of the first use after CR0.TS was set"
    cmp dword ptr [fpu_errors], MODES
    CHECK e, "unmasked x87 exceptions"
    UNTIL_INTERRUPTED again
    ret

# Computes in rounding mode R15 and stores all registers to the area at R14. XMM8 to XMM15 are loaded
# at the start and only permuted later; the control words are never loaded again.
compute:
    # MXCSR: rounding in bits 13 and 14; FCW: in bits 10 and 11. The first use of the unit.
    mov eax, r15d
    shl eax, 13
    or eax, MXCSR_MASKED
    mov [word_in_memory], eax
    ldmxcsr [word_in_memory]
    fninit
    mov eax, r15d
    shl eax, 10
    or eax, FCW_EXTENDED
    mov [word_in_memory], eax
    fldcw [word_in_memory]
    movabs r8, LCG_SEED
    LCG_CONSTANTS
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    LCG r8
    movq xmm\register, r8
    LCG r8
    pinsrq xmm\register, r8, 1
    .endr
    xorpd xmm0, xmm0
    xorpd xmm1, xmm1
    movsd xmm2, [one]
    fldz
    fld1
    mov r12, [work]
1:  # x87: the sum of 1/k and square roots in ST(1), k in ST(0).
    fld st(0)
    fsqrt
    fld1
    fdiv st(0), st(2)
    faddp st(1), st(0)
    faddp st(2), st(0)
    fld1
    faddp st(1), st(0)
    # SSE: the same in doubles, and a sum of divisions in four floats.
    movsd xmm3, [one]
    divsd xmm3, xmm2
    addsd xmm0, xmm3
    sqrtsd xmm4, xmm2
    addsd xmm1, xmm4
    addsd xmm2, [one]
    cvtsd2ss xmm5, xmm0
    shufps xmm5, xmm5, 0
    addps xmm5, [four_floats]
    divps xmm5, [four_floats]
    # Integers, kept in registers from the start.
    paddq xmm8, xmm9
    pxor xmm9, xmm10
    pshufd xmm10, xmm11, 0x39
    paddd xmm11, xmm12
    pxor xmm12, xmm13
    pshufb xmm13, xmm14
    paddq xmm14, xmm15
    pxor xmm15, xmm8
    test r12d, 63
    jnz 2f
    POLL_UNLESS_QUIET
2:  dec r12
    jnz 1b

    # Division by zero, unmasked: reported at the next x87 instruction that waits.
    fld1
    fldz
    fnstcw [word_in_memory]
    and word ptr [word_in_memory], ~4
    fldcw [word_in_memory]
    fdivp st(1), st(0)
    fwait
    fstp st(0)

    fnstsw [r14]
    fnstcw [r14 + 2]
    stmxcsr [r14 + 4]
    fstp tbyte ptr [r14 + 16]
    fstp tbyte ptr [r14 + 32]
    .set at, 64
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu [r14 + at], xmm\register
    .set at, at + 16
    .endr
    ret

# Tick hook: what a scheduler does. All of the saved state goes into the trace.
use_registers:
    mov rax, cr0
    push rax
    clts
    fxsave [saved_state]
    mov esi, offset saved_state
    mov ecx, FXSAVE_BYTES / 8
    call mix_words
    fninit
    mov dword ptr [word_of_handler], 0x7f80
    ldmxcsr [word_of_handler]
    mov word ptr [word_of_handler], 0x0c3f
    fldcw [word_of_handler]
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pcmpeqd xmm\register, xmm\register
    .endr
    .rept 8
    fldpi
    .endr
    divps xmm0, xmm1
    fxrstor [saved_state]
    pop rax
    mov cr0, rax
    ret

# #NM: the unit is given to whoever used it.
not_available:
    inc dword ptr [not_available_faults]
    clts
    iretq

# #MF: masks the exception again and takes its flag away.
floating_point_error:
    push rax
    fnstsw ax
    test al, 4
    CHECK nz, "an x87 exception that is no division by zero"
    fnclex
    fnstcw [word_of_handler]
    or word ptr [word_of_handler], 4
    fldcw [word_of_handler]
    inc dword ptr [fpu_errors]
    pop rax
    iretq

    .data
    .balign 16
four_floats: .float 3.0, 5.0, 7.0, 11.0
one: .double 1.0
not_available_faults: .long 0
fpu_errors: .long 0
word_in_memory: .long 0
word_of_handler: .long 0

    .bss
    .balign 16
saved_state: .skip FXSAVE_BYTES
result: .skip RESULT_BYTES
expected: .skip RESULT_BYTES * MODES
