//! SYSCALL and SYSRET, executed by the VMM.
//!
//! SYSCALL clears RFLAGS.TF where the guest's mask says so, and SYSRET loads it, so a step over
//! either runs on; and SYSCALL shows TF to the guest in R11. (Intel SDM volume 2, SYSCALL and
//! SYSRET; AMD APM volume 3, the same.)

use kvm_bindings::{kvm_segment, kvm_sregs};

use super::decode::Kind;
use crate::cpu::{CpuError, GuestCpu, RFLAGS_RF, RFLAGS_TF, Registers};
use crate::kvm::KvmCpu;
use crate::kvm::msrs;
use crate::kvm::vm::segment;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;
const EFER_SCE: u64 = 1;
const RCX: usize = 2;
const R11: usize = 11;
const RFLAGS_FIXED: u64 = 1 << 1;
/// What SYSRET takes from R11: all defined flags but RF and VM.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;
/// Accessed, readable 64-bit code; accessed, writable data.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;

/// Whether [`execute`] can do it; elsewhere it faults, as a step does.
pub(super) fn can_execute(kind: Kind, sregs: &kvm_sregs) -> bool {
    let enabled = sregs.efer & EFER_SCE != 0 && sregs.cs.l != 0;
    match kind {
        Kind::Syscall => enabled,
        Kind::Sysret { wide } => enabled && wide && sregs.cs.dpl == 0,
        _ => false,
    }
}

/// Executes the SYSCALL or SYSRET of `len` bytes at RIP.
///
/// # Errors
/// [`CpuError`].
pub(super) fn execute(
    cpu: &mut KvmCpu,
    kind: Kind,
    len: u64,
    mut sregs: kvm_sregs,
) -> Result<(), CpuError> {
    let values = msrs::read(cpu.fd_ref(), &[STAR, LSTAR, SFMASK])?;
    let &[(_, star), (_, lstar), (_, sfmask)] = &values[..] else {
        return Err(CpuError::UnknownExit(
            "SYSCALL without its registers".into(),
        ));
    };
    let mut registers = cpu.registers()?;
    if kind == Kind::Syscall {
        enter(&mut registers, len, lstar, sfmask);
        sregs.cs = segment((star >> 32) as u16 & !3, CODE);
        sregs.ss = segment(((star >> 32) as u16 & !3) + 8, DATA);
    } else {
        leave(&mut registers);
        let base = (star >> 48) as u16;
        sregs.cs = for_user(segment((base + 16) | 3, CODE));
        sregs.ss = for_user(segment((base + 8) | 3, DATA));
    }
    cpu.set_registers(&registers)?;
    cpu.set_control_registers(&sregs)
}

fn enter(registers: &mut Registers, len: u64, lstar: u64, sfmask: u64) {
    registers.gpr[RCX] = registers.rip.wrapping_add(len);
    registers.gpr[R11] = registers.rflags & !(RFLAGS_TF | RFLAGS_RF);
    registers.rip = lstar;
    registers.rflags = registers.rflags & !(sfmask | RFLAGS_TF | RFLAGS_RF) | RFLAGS_FIXED;
}

fn leave(registers: &mut Registers) {
    registers.rip = registers.gpr[RCX];
    registers.rflags = registers.gpr[R11] & SYSRET_FLAGS & !RFLAGS_TF | RFLAGS_FIXED;
}

fn for_user(segment: kvm_segment) -> kvm_segment {
    kvm_segment { dpl: 3, ..segment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_its_return_keep_what_they_must() {
        let before = Registers {
            rip: 0x1000,
            rflags: 0x0a46,
            ..Registers::default()
        };
        let mut registers = before;
        enter(&mut registers, 2, 0xffff_8000, 0x4700);
        assert_eq!(registers.rip, 0xffff_8000);
        assert_eq!(registers.gpr[RCX], 0x1002);
        assert_eq!(registers.gpr[R11], 0x0a46);
        assert_eq!(registers.rflags, 0x0846, "interrupts off");
        leave(&mut registers);
        assert_eq!(registers.rip, 0x1002);
        assert_eq!(registers.rflags, before.rflags);
    }
}
