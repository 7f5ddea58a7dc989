# Page faults in the kernel and in user mode: pages are mapped by the handler when they are first
# touched (for a read: the frame of zeros, not writable; for a write: a frame of their own), while
# timer interrupts come, in the handler too. The number of faults, their error codes, the contents,
# and the accessed and dirty bits are checked.
    .include "micro.inc"
    .include "paging.inc"
    GUEST "page-fault", 6000        # touches in each mode

    .equ PAGES, 512

    .equ FAULT_PRESENT, 1           # error code
    .equ FAULT_WRITE, 2
    .equ FAULT_USER, 4

# Touches random words of the region at R15, R12 times: adds the generator's state to the word, or
# only reads it. Keeps in [states] which pages were read (bit 0) or written (bit 1), in R13 the sum
# of all that was added, in R14 a hash of all that was read, in R11 the number of faults that this
# must make.
.macro TOUCH_PAGES
    LCG_CONSTANTS
    movabs r8, LCG_SEED
    xor r11d, r11d
    xor r13d, r13d
    xor r14d, r14d
1:  LCG r8
    mov rdi, r8
    shr rdi, 40
    and edi, PAGES - 1
    mov rax, r8
    shr rax, 20
    and eax, 4088
    mov rbx, rdi
    shl rbx, 12
    add rbx, r15
    add rbx, rax
    mov rax, [rbx]
    xor r14, rax
    rol r14, 9
    cmp byte ptr [states + rdi], 0
    jne 2f
    inc r11
    mov byte ptr [states + rdi], 1
2:  bt r8, 35
    jc 4f
    add rax, r8
    add r13, r8
    mov [rbx], rax
    test byte ptr [states + rdi], 2
    jnz 4f
    inc r11
    or byte ptr [states + rdi], 2
4:  dec r12
    jnz 1b
.endm

main:
    GATE VECTOR_PF, page_fault
    call new_frame
    mov [frame_of_zeros], rax
    mov ecx, HZ_1000
    call start_timer
again:
    movabs r15, KERNEL_REGION
    mov rdi, r15
    call forget_pages
    mov [region], r15
    mov r12, [work]
    sti
    TOUCH_PAGES
    cli
    call check

    # Pages that were taken away: the words must be zeros.
    mov rdi, [region]
    call forget_pages
    mov r12d, PAGES
    mov rdi, [region]
1:  cmp qword ptr [rdi], 0
    CHECK e, "a page that was taken away is still there"
    add rdi, 4096
    dec r12d
    jnz 1b

    movabs rdi, USER_REGION
    mov [region], rdi
    call forget_pages
    mov dword ptr [mode], FAULT_USER
    mov rax, [work]
    mov [user_work], rax
    mov edi, offset user
    call run_user
    mov r11, rax
    mov r13, [user_sum]
    mov r14, [user_hash]
    mov dword ptr [mode], 0
    call check
    UNTIL_INTERRUPTED again
    ret

# Takes all pages of the region at RDI away. Changes RAX, RCX, RDX, RSI, RDI.
forget_pages:
    mov esi, PAGES
1:  call page_table_entry
    mov qword ptr [rax], 0
    invlpg [rdi]
    add rdi, 4096
    dec esi
    jnz 1b
    xor eax, eax
    mov edi, offset states
    mov ecx, PAGES
    rep stosb
    mov dword ptr [faults], 0
    mov rax, [frame_of_zeros]
    add rax, 4096
    mov [next_frame], rax
    ret

# Checks what TOUCH_PAGES has done.
check:
    MIX r14
    cmp r11d, [faults]
    CHECK e, "number of page faults"
    xor r12d, r12d
1:  mov rdi, r12
    shl rdi, 12
    add rdi, [region]
    call page_table_entry
    mov rax, [rax]
    mov edx, eax
    and edx, PRESENT | WRITABLE | ACCESSED | DIRTY
    movzx ecx, byte ptr [states + r12]
    cmp edx, [entries_expected + 4 * rcx]
    CHECK e, "bits of a page table entry"
    test eax, PRESENT
    jz 3f
    mov ecx, 512
2:  sub r13, [rdi]
    add rdi, 8
    dec ecx
    jnz 2b
3:  inc r12d
    cmp r12d, PAGES
    jb 1b
    test r13, r13
    CHECK z, "contents of the pages"
    ret

page_fault:
    PUSH_ALL
    cld
    mov rdi, cr2
    mov rbx, [rsp + SAVED_RIP]      # the error code lies where RIP is without one
    MIX rdi
    MIX rbx
    mov rax, rdi
    sub rax, [region]
    cmp rax, PAGES * 4096
    CHECK b, "a page fault outside the region"
    inc dword ptr [faults]
    call page_table_entry
    mov rsi, rax

    # In every fourth fault interrupts are let in, and there is an exit for them to come with.
    test byte ptr [faults], 3
    jnz 1f
    sti
    POLL_UNLESS_QUIET
    cli

1:  test ebx, FAULT_PRESENT
    jnz 2f
    test qword ptr [rsi], PRESENT
    CHECK z, "a fault says not present of a page that is"
    cmp ebx, [mode]                 # a first touch is always a read
    CHECK e, "error code of a read"
    mov rax, [frame_of_zeros]
    or rax, PRESENT | USER
    mov [rsi], rax
    jmp 3f
2:  mov eax, FAULT_PRESENT | FAULT_WRITE
    or eax, [mode]
    cmp ebx, eax
    CHECK e, "error code of a write"
    test qword ptr [rsi], WRITABLE
    CHECK z, "a fault at a page that is writable"
    call new_frame
    or rax, PRESENT | WRITABLE | USER
    mov [rsi], rax
    invlpg [rdi]
3:  POP_ALL
    add rsp, 8
    iretq

    .data
    .balign 8
region: .quad 0
frame_of_zeros: .quad 0
faults: .long 0
mode: .long 0                       # FAULT_USER while user mode runs
entries_expected:
    .long 0
    .long PRESENT | ACCESSED
    .long 0
    .long PRESENT | WRITABLE | ACCESSED | DIRTY

    .section .user
    .balign 8
states: .skip PAGES
user_work: .quad 0
user_sum: .quad 0
user_hash: .quad 0
user:
    movabs r15, USER_REGION
    mov r12, [user_work]
    TOUCH_PAGES
    mov [user_sum], r13
    mov [user_hash], r14
    mov rdi, r11
    mov eax, USER_DONE
    int VECTOR_USER
