// The micro-guests that find out who translates a guest's addresses, laid out as crate::kvm::probe says.
// Both have a page table of their own for the pages from WINDOW on, and never flush what it says behind a
// change that is looked at. They do not end. Labels begin at 2: 1b would be a binary number.

    .equ PAGES, 32                  // first: a symbol of one that is not known yet is an address
    .equ PAGE_DIRECTORY, 0x3000
    .equ GO_ON, 0x13000             // set by the host: it is done with the guest that stands still
    .equ TABLE, 0x20000
    .equ TABLE_END, TABLE + 8 * PAGES
    .equ WRITTEN, 0x80000           // pages that are written, one a round
    .equ FRAMES, 0x100000
    .equ WINDOW, 0x200000
    .equ WINDOW_END, WINDOW + 0x1000 * PAGES
    .equ WRITABLE_BIT, 1
    .equ ACCESSED_BIT, 5

    .macro map_window
    mov edi, TABLE
    mov eax, FRAMES | 7
9:  mov [rdi], rax
    add edi, 8
    add eax, 0x1000
    cmp edi, TABLE_END
    jb 9b
    mov qword ptr [PAGE_DIRECTORY + 8], TABLE | 7
    .endm

    .macro flush
    mov rax, cr3
    mov cr3, rax
    .endm

    .macro read_pages
    mov esi, WINDOW
9:  mov al, [rsi]
    add esi, 0x1000
    cmp esi, WINDOW_END
    jb 9b
    .endm

    // How many entries had the bit goes to `count`.
    .macro each_entry instruction, bit, count
    xor \count, \count
    mov edi, TABLE
9:  \instruction qword ptr [rdi], \bit
    adc \count, 0
    add edi, 8
    cmp edi, TABLE_END
    jb 9b
    .endm

    .pushsection .rodata
    .globl ftvm_paging_accessed, ftvm_paging_accessed_end
    .globl ftvm_paging_raised, ftvm_paging_raised_end

    // Clears accessed bits without a flush, and counts those that come back.
ftvm_paging_accessed:
    map_window
    mov ebp, WRITTEN
2:  flush
    read_pages
    each_entry btr, ACCESSED_BIT, ebx
    mov [rbp], al
    add ebp, 0x1000
    cmp qword ptr [GO_ON], 0
    jne 4f
    out 0x10, al
3:  cmp qword ptr [GO_ON], 0
    je 3b
4:  mov qword ptr [GO_ON], 0
    read_pages
    each_entry bt, ACCESSED_BIT, ecx
    out 0x11, al
    jmp 2b
ftvm_paging_accessed_end:

    // Makes pages writable without a flush, and writes them.
ftvm_paging_raised:
    map_window
    mov rax, cr0
    or eax, 0x10000                 // WP: the kernel, too, is to write only where it may
    mov cr0, rax
2:  each_entry btr, WRITABLE_BIT, ecx
    flush
    read_pages
    each_entry bts, WRITABLE_BIT, ecx
    mov esi, WINDOW
3:  mov [rsi], al
    add esi, 0x1000
    cmp esi, WINDOW_END
    jb 3b
    out 0x11, al
    jmp 2b
ftvm_paging_raised_end:
    .popsection
