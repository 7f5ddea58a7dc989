//! The general registers, in KVM's order and in ftvm's.

use kvm_bindings::kvm_regs;

use crate::cpu::Registers;

fn gpr(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ]
}

pub(super) fn from_kvm(r: &kvm_regs, cr3: u64) -> Registers {
    Registers {
        gpr: gpr(r),
        rip: r.rip,
        rflags: r.rflags,
        cr3,
    }
}

/// All but CR3.
pub(super) fn to_kvm(registers: &Registers) -> kvm_regs {
    let [
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = registers.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: registers.rip,
        rflags: registers.rflags,
    }
}
