// The micro-guest of the counter's trial, laid out as crate::kvm::probe says. It never ends.
//
// User mode and kernel compute, copy strings, take page faults and undefined instructions, and call
// each other; interrupts may come nearly everywhere. The timer's handler adds what it interrupted to a
// hash, so that memory differs for ever if one interrupt came elsewhere. It is short, so that few of
// the places where the next one is due lie within. Without interrupts, the same number of instructions
// lies between any two of its exits but the first: `LAP` in guest.rs.

    .equ KERNEL, 0x10000
    .equ USER, 0x11000
    .equ USER_STACK, 0xb000
    .equ DATA, 0x13000              // hash; counts of ticks, page faults, UD2s; strings
    .equ AGED, DATA + 0x58          // pages to age; accessed bits that were found
    .equ PAGE_TABLE, 0x14000
    .equ COLD_PAGE, 0x18000         // is unmapped again and again
    .equ COLD_ENTRY, PAGE_TABLE + 8 * (COLD_PAGE / 0x1000)
    .equ PAGE_DIRECTORY, 0x3000
    .equ IDT, 0x5000
    .equ USER_CODE, 0x2b
    .equ USER_DATA, 0x23
    .equ KERNEL_CODE, 0x08
    .equ SYSCALL_STACK, 0x17000

    .pushsection .rodata
    .globl ftvm_trial_kernel, ftvm_trial_kernel_end, ftvm_trial_user, ftvm_trial_user_end
    .globl ftvm_trial_syscall, ftvm_trial_syscall_end

ftvm_trial_kernel:
    // Small pages, open to user mode, in place of the large one.
    mov edi, PAGE_TABLE
    mov eax, 7
5:  mov [rdi], rax
    add rdi, 8
    add rax, 0x1000
    cmp rax, 0x200000
    jb 5b
    mov qword ptr [PAGE_DIRECTORY], PAGE_TABLE | 7
    mov rax, cr3
    mov cr3, rax
    // Handlers.
    lea rax, [rip + trial_timer]
    mov edi, IDT + 16 * 0x20
    call trial_gate
    lea rax, [rip + trial_page_fault]
    mov edi, IDT + 16 * 14
    call trial_gate
    lea rax, [rip + trial_undefined]
    mov edi, IDT + 16 * 6
    call trial_gate
    // 8259: vectors from 0x20, only the timer's line open.
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    // 8254: 100 Hz.
    mov al, 0x34
    out 0x43, al
    mov al, 0x9c
    out 0x40, al
    mov al, 0x2e
    out 0x40, al
    push USER_DATA
    push USER_STACK
    push 0x202                      // IF
    push USER_CODE
    push USER
    iretq

trial_gate:
    mov [rdi], ax
    shr rax, 16
    mov [rdi + 6], ax
    ret

trial_timer:
    push rax
    push rdx
    movabs rdx, 0x9e3779b97f4a7c15
    mov rax, [DATA]
    xor rax, [rsp]                  // RDX
    imul rax, rdx
    xor rax, [rsp + 16]             // RIP
    imul rax, rdx
    xor rax, [rsp + 32]             // RFLAGS
    imul rax, rdx
    xor rax, [rsp + 40]             // RSP
    rol rax, 29
    mov [DATA], rax
    inc qword ptr [DATA + 8]
    mov al, 0x20                    // end of interrupt
    out 0x20, al
    pop rdx
    pop rax
    iretq

// Maps the cold page.
trial_page_fault:
    add rsp, 8
    mov qword ptr [COLD_ENTRY], COLD_PAGE | 7
    push rax
    mov eax, COLD_PAGE
    invlpg [rax]
    inc qword ptr [DATA + 16]
    pop rax
    iretq

// Steps over UD2.
trial_undefined:
    add qword ptr [rsp], 2
    inc qword ptr [DATA + 24]
    iretq
ftvm_trial_kernel_end:

ftvm_trial_user:
    mov r15d, 1
5:  // A loop with branches, and flags on the stack.
    mov ecx, 12
2:  imul r15, r15, 69069
    inc r15
    test r15d, 0x10000
    jz 3f
    rol r15, 7
    jmp 4f
3:  nop                             // both ways are of the same length
    nop
4:  pushfq
    pop rax
    xor r15, rax
    dec ecx
    jnz 2b
    // Strings.
    mov esi, DATA + 0x100
    mov edi, DATA + 0x180
    mov ecx, 24
    mov [rsi + 5], r15
    rep movsb
    mov eax, r15d
    mov edi, DATA + 0x200
    mov ecx, 9
    rep stosd
    mov esi, DATA + 0x100
    mov edi, DATA + 0x180
    mov ecx, 24
    repe cmpsb
    setz al
    // A loop that changes nothing but memory.
    mov qword ptr [DATA + 0x40], 9
6:  inc qword ptr [DATA + 0x48]
    dec qword ptr [DATA + 0x40]
    jnz 6b
    ud2
    syscall
    add r15, r11                    // flags, as the call saved them
    mov eax, COLD_PAGE
    add [rax + 16], r15             // a page fault
    mov r14, rsp
    pushfq
    popfq
    jmp 5b
ftvm_trial_user_end:

ftvm_trial_syscall:
    mov r13, rsp
    mov esp, SYSCALL_STACK
    push rcx
    push r11
    // Windows that open behind STI, POPF, and MOV SS.
    sti
    nop
    inc qword ptr [DATA + 0x50]
    cli
    pushfq
    or byte ptr [rsp + 1], 2
    popfq
    mov ecx, 7
    mov edi, DATA + 0x280
    rep stosb
    mov eax, 0x10
    mov ss, eax
    inc r12
    add r12, [DATA + 0x50]
    cli
    // Ages the pages from the kernel's on, as Linux does, without a flush: who translates addresses
    // decides which accessed bits are set again. The stops at handlers and the decoding of
    // instructions look at these pages too.
    mov ecx, [AGED]
    jecxz 8f
    mov edi, PAGE_TABLE + 8 * (KERNEL / 0x1000)
7:  btr qword ptr [rdi], 5
    adc qword ptr [AGED + 8], 0
    add rdi, 8
    dec ecx
    jnz 7b
8:  add r12, [AGED + 8]
    in al, 0x80                     // an exit that nothing answers
    mov qword ptr [COLD_ENTRY], COLD_PAGE | 6
    mov eax, COLD_PAGE
    invlpg [rax]
    pop r11
    pop rcx
    mov rsp, r13
    sysretq
ftvm_trial_syscall_end:
    .popsection
