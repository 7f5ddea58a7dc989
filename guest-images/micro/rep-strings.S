# String instructions long enough to be interrupted in the middle: by the timer, and by page faults
# of a destination that is mapped while it is written. Forwards and backwards, moves, stores,
# comparisons, scans, and string I/O, of which each byte exits.
    .include "micro.inc"
    .include "paging.inc"
    GUEST "rep-strings", 40         # ticks

    .equ ROUNDS_MAX, 1000
    .equ HZ_100, 11932              # divisor of the timer

    .equ BYTES, 0x20000
    .equ SOURCE, 0x2000000
    .equ TARGET, 0x2100000
    .equ MAPPED_BYTES, 0x10000      # of the region that is mapped on demand

# Sets the registers of a string instruction.
.macro STRING source, target, count
    .ifnb \source
    mov esi, \source
    .endif
    .ifnb \target
    mov edi, \target
    .endif
    mov ecx, \count
.endm

# RCX, RSI and RDI after a whole string.
.macro CHECK_ENDS count, source, target, what
    cmp rcx, \count
    CHECK e, "\what: count"
    .ifnb \source
    cmp rsi, \source
    CHECK e, "\what: source"
    .endif
    .ifnb \target
    cmp rdi, \target
    CHECK e, "\what: target"
    .endif
.endm

main:
    GATE VECTOR_PF, page_fault
    mov qword ptr [tick_hook], offset count_strings
    LCG_CONSTANTS
    movabs r8, LCG_SEED
    mov edi, SOURCE
1:  LCG r8
    mov [rdi], r8
    add rdi, 8
    cmp edi, SOURCE + BYTES
    jb 1b

    mov ecx, HZ_100
    call start_timer
    sti
    xor r12d, r12d
round:
    LCG r8
    mov rbx, r8                     # a place in the strings
    shr rbx, 30
    and ebx, BYTES - 1

    mov rax, r8
    STRING , TARGET, BYTES/8
    rep stosq
    CHECK_ENDS 0, , TARGET+BYTES, "rep stosq"
    STRING , TARGET, BYTES/8
    repe scasq
    CHECK e, "repe scasq after rep stosq"
    CHECK_ENDS 0, , TARGET+BYTES, "repe scasq"

    STRING SOURCE, TARGET, BYTES
    rep movsb
    CHECK_ENDS 0, SOURCE+BYTES, TARGET+BYTES, "rep movsb"
    STRING SOURCE, TARGET, BYTES
    repe cmpsb
    CHECK e, "repe cmpsb after rep movsb"
    CHECK_ENDS 0, SOURCE+BYTES, TARGET+BYTES, "repe cmpsb"

    # One byte differs.
    not byte ptr [TARGET + rbx]
    STRING SOURCE, TARGET, BYTES
    repe cmpsb
    CHECK ne, "repe cmpsb, one byte differs"
    lea rax, [rbx + SOURCE + 1]
    cmp rsi, rax
    CHECK e, "repe cmpsb stopped at another byte"
    add rcx, rbx
    cmp rcx, BYTES - 1
    CHECK e, "repe cmpsb stopped with another count"

    # Backwards.
    std
    STRING SOURCE+BYTES-8, TARGET+BYTES-8, BYTES/8
    rep movsq
    cld
    CHECK_ENDS 0, SOURCE-8, TARGET-8, "rep movsq backwards"
    STRING SOURCE, TARGET, BYTES/4
    repe cmpsd
    CHECK e, "repe cmpsd after rep movsq backwards"

    # A byte in zeros.
    xor eax, eax
    STRING , TARGET, BYTES/4
    rep stosd
    mov al, 1
    mov [TARGET + rbx], al
    STRING , TARGET, BYTES
    repne scasb
    CHECK e, "repne scasb"
    lea rdx, [rbx + TARGET + 1]
    cmp rdi, rdx
    CHECK e, "repne scasb stopped at another byte"

    # Into pages that are not there.
    cli
    call take_pages_away
    sti
    mov esi, SOURCE
    movabs rdi, KERNEL_REGION
    mov ecx, MAPPED_BYTES
    rep movsb
    test rcx, rcx
    CHECK z, "rep movsb with page faults: count"
    cmp dword ptr [faults], MAPPED_BYTES / 4096
    CHECK e, "rep movsb with page faults: number of faults"
    mov esi, SOURCE
    movabs rdi, KERNEL_REGION
    mov ecx, MAPPED_BYTES
    repe cmpsb
    CHECK e, "repe cmpsb after rep movsb with page faults"

    # To a port where nothing is, and from the timer's counter.
    cmp byte ptr [quiet], 0
    jne 2f
    mov edx, 0x80
    STRING SOURCE, , 100
    rep outsb
    CHECK_ENDS 0, SOURCE+100, , "rep outsb"
    mov edx, 0x40
    STRING , TARGET, 64
    rep insb
    CHECK_ENDS 0, , TARGET+64, "rep insb"
2:  cli
    mov esi, TARGET
    mov ecx, 64 / 8
    call mix_words
    mov rax, [strings_interrupted]
    MIX rax
    sti

    inc r12d
    cmp r12d, ROUNDS_MAX
    CHECK b, "too few timer interrupts"
    mov rax, [work]
    cmp [ticks], rax
    jb round
    ret

# Tick hook: counts the ticks that came in the middle of a string.
count_strings:
    cmp qword ptr [rbx + SAVED_RCX], 0
    je 1f
    mov rax, [rbx + SAVED_RIP]
    mov al, [rax]
    and al, 0xfe                    # F2 and F3: REPNE and REP
    cmp al, 0xf2
    jne 1f
    inc qword ptr [strings_interrupted]
1:  ret

take_pages_away:
    mov dword ptr [faults], 0
    movabs rdi, KERNEL_REGION
    mov esi, MAPPED_BYTES / 4096
1:  call page_table_entry
    mov qword ptr [rax], 0
    invlpg [rdi]
    add rdi, 4096
    dec esi
    jnz 1b
    ret

# Maps the page; the frame is the same each time.
page_fault:
    PUSH_ALL
    cld
    inc dword ptr [faults]
    mov rdi, cr2
    movabs rbx, KERNEL_REGION
    mov rsi, rdi
    sub rsi, rbx
    cmp rsi, MAPPED_BYTES
    CHECK b, "a page fault outside the region"
    and esi, -4096
    add esi, FRAMES | PRESENT | WRITABLE
    call page_table_entry
    mov [rax], rsi
    POP_ALL
    add rsp, 8
    iretq

    .data
    .balign 8
strings_interrupted: .quad 0
faults: .long 0
