# Interrupts around the instructions that let them in: STI with its shadow of one instruction, HLT,
# POPF, IRETQ. Each must be taken at exactly one place.
    .include "micro.inc"
    GUEST "sti-hlt", 60

# With interrupts off, waits until the timer's interrupt is requested from the 8259.
.macro WAIT_UNTIL_REQUESTED
    mov al, 0x0a                    # OCW3: read the request register
    out 0x20, al
1:  in al, 0x20
    test al, 1
    jz 1b
    mov r13, [ticks]
.endm

# Interrupts are off again. Since the last wait, one has been taken, and at this place.
.macro CHECK_TAKEN_AT place, what
    cmp [ticks], r13
    CHECK a, "\what: not taken"
    cmp qword ptr [interrupted_at], offset \place
    CHECK e, "\what: taken at another instruction"
.endm

main:
    mov ecx, HZ_1000
    call start_timer
    mov r12, [work]
round:
    WAIT_UNTIL_REQUESTED
    sti
    nop
after_nop:
    cli
    CHECK_TAKEN_AT after_nop, "sti, nop"

    WAIT_UNTIL_REQUESTED
    sti
    cli
    cmp [ticks], r13
    CHECK e, "sti, cli: taken"

    # The instruction in the shadow exits.
    WAIT_UNTIL_REQUESTED
    sti
    POLL
after_in:
    cli
    CHECK_TAKEN_AT after_in, "sti, in"

    WAIT_UNTIL_REQUESTED
    pushf
    or qword ptr [rsp], 0x200
    popf
after_popf:
    cli
    CHECK_TAKEN_AT after_popf, "popf"

    WAIT_UNTIL_REQUESTED
    mov rax, rsp
    push KERNEL_DATA
    push rax
    push 0x202
    push KERNEL_CODE
    push offset after_iretq
    iretq
after_iretq:
    cli
    CHECK_TAKEN_AT after_iretq, "iretq"

    # The halt is entered with an interrupt waiting: it must end at once.
    WAIT_UNTIL_REQUESTED
    sti
    hlt
after_hlt:
    cli
    CHECK_TAKEN_AT after_hlt, "sti, hlt with an interrupt waiting"

    # The usual idle loop. An interrupt between the two instructions would be slept through.
    mov r13, [ticks]
    sti
    hlt
after_idle:
    cli
    CHECK_TAKEN_AT after_idle, "sti, hlt"

    # A second STI has no shadow. ftvm may take it for a first one, if it always does.
    WAIT_UNTIL_REQUESTED
    sti
    sti
    nop
    nop
    cli
    cmp [ticks], r13
    CHECK a, "sti, sti: not taken"

    dec r12
    jnz round
    ret
