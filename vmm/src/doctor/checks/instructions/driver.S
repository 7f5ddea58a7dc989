// The micro-guest that runs the table of instructions, laid out as crate::kvm::probe says; what lies
// beyond is in mod.rs, and the operands' and the record's layouts are in operands.rs.
//
// Each code runs with each of its sets of operands. What it did goes into a record, the compared parts
// of the record into the digest. Where a code faults, the VMM notes the exception in the record and goes
// on at ftvm_table_resume, or at ftvm_table_next, if nothing else is to be tried; RBP is the stack
// pointer there.

    .equ RECORD, 0x14000            // registers, flags, memory, exception, then as FXSAVE stores it
    .equ RECORD_WORDS, 32
    .equ RECORD_EXCEPTION, RECORD + 56
    .equ SCRATCH, 0x14400           // the memory operand
    .equ BLANK, 0x14800             // as FXRSTOR loads it
    .equ PLAN, 0x15000              // code, operands, number of these, mask; digest
    .equ PLAN_ENTRY, 40
    .equ OPERAND_SET, 128

    .pushsection .rodata
    .globl ftvm_table, ftvm_table_resume, ftvm_table_next, ftvm_table_end

ftvm_table:
    mov rbp, rsp
    mov r10d, PLAN
2:  mov r12, [r10]
    test r12, r12
    jz 5f
    mov r13, [r10 + 8]
    mov r14, [r10 + 16]
    mov r15, [r10 + 24]
    movabs r11, 0x9e3779b97f4a7c15
3:  fxrstor64 [BLANK]
    movups xmm0, [r13 + 64]
    movups xmm1, [r13 + 80]
    ldmxcsr [r13 + 48]
    fldcw [r13 + 52]
    fld tbyte ptr [r13 + 112]
    fld tbyte ptr [r13 + 96]
    mov r8d, SCRATCH
    mov edi, SCRATCH
    mov esi, SCRATCH
    mov rax, [r13 + 40]
    mov [r8], rax
    mov qword ptr [r8 + 8], 0
    mov rax, [r13]
    mov rbx, [r13 + 8]
    mov rcx, [r13 + 16]
    mov rdx, [r13 + 24]
    push qword ptr [r13 + 32]
    popfq
    call r12
ftvm_table_resume:
    pushfq
    mov [RECORD], rax
    mov [RECORD + 8], rbx
    mov [RECORD + 16], rcx
    mov [RECORD + 24], rdx
    pop rax
    mov [RECORD + 32], rax
    mov rax, [r8]
    mov [RECORD + 40], rax
    mov rax, [r8 + 8]
    mov [RECORD + 48], rax
    fxsave64 [RECORD + 64]
    movabs rdx, 0xff51afd7ed558ccd
    xor ecx, ecx
4:  mov rax, [RECORD + 8 * rcx]
    and rax, [r15 + 8 * rcx]
    xor r11, rax
    imul r11, rdx
    mov rax, r11
    shr rax, 32
    xor r11, rax
    inc ecx
    cmp ecx, RECORD_WORDS
    jb 4b
    mov qword ptr [RECORD_EXCEPTION], 0
    add r13, OPERAND_SET
    dec r14
    jnz 3b
ftvm_table_next:
    mov [r10 + 32], r11
    add r10, PLAN_ENTRY
    jmp 2b
5:  fninit
    out 0x10, al
ftvm_table_end:
    .popsection
