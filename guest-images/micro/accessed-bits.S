# Accessed bits of its own page table that the guest clears, without a flush, before it reads the pages
# again and counts the bits. Under shadow paging KVM sets them, and which follows from the guest alone.
# Under nested paging the processor does, where its TLB is empty: this guest is NOT deterministic then.
    .include "micro.inc"
    .include "paging.inc"
    GUEST "accessed-bits", 400      # rounds

    .equ PAGES, 64                  # their entries lie one behind the other
    .equ SPIN, 20000

main:
    movabs r15, KERNEL_REGION
    mov rbx, r15
    mov r12d, PAGES
1:  mov rdi, rbx
    call page_table_entry
    mov r14, rax
    call new_frame
    or rax, PRESENT | WRITABLE
    mov [r14], rax
    add rbx, 4096
    dec r12d
    jnz 1b
    sub r14, 8 * (PAGES - 1)

    mov r12, [work]
2:  mov rax, cr3                    # flushes
    mov cr3, rax
    call read_pages
    mov ecx, PAGES
    mov rdi, r14
3:  btr qword ptr [rdi], 5
    CHECK c, "a page that was read is not marked"
    add rdi, 8
    dec ecx
    jnz 3b
    mov ecx, SPIN                   # no exit, and whatever the host does meanwhile
4:  dec ecx
    jnz 4b
    call read_pages
    xor r13d, r13d
    mov ecx, PAGES
    mov rdi, r14
5:  bt qword ptr [rdi], 5
    adc r13d, 0
    add rdi, 8
    dec ecx
    jnz 5b
    MIX r13
    POLL
    dec r12
    jnz 2b
    ret

# Changes RAX, RCX, RDI.
read_pages:
    mov ecx, PAGES
    mov rdi, r15
1:  mov al, [rdi]
    add rdi, 4096
    dec ecx
    jnz 1b
    ret
