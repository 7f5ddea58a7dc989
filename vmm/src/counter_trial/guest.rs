//! The micro-guest of the trial.

use std::arch::global_asm;
use std::ops::Range;

use crate::kvm::probe::Program;

global_asm!(include_str!("guest.S"));

unsafe extern "C" {
    static ftvm_trial_kernel: u8;
    static ftvm_trial_kernel_end: u8;
    static ftvm_trial_user: u8;
    static ftvm_trial_user_end: u8;
    static ftvm_trial_syscall: u8;
    static ftvm_trial_syscall_end: u8;
}

/// Where its page tables are: the probe's, and its own (`PAGE_TABLE` in guest.S).
pub(super) const PAGE_TABLES: [Range<u64>; 2] = [0x1000..0x4000, 0x1_4000..0x1_5000];

/// The guest's code.
pub(super) fn program() -> Program<'static> {
    let between = |start: *const u8, end: *const u8| {
        // SAFETY: both are labels in one read-only section of this program, in this order, and
        // what lies between them never changes.
        unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
    };
    Program {
        kernel: between(
            &raw const ftvm_trial_kernel,
            &raw const ftvm_trial_kernel_end,
        ),
        user: between(&raw const ftvm_trial_user, &raw const ftvm_trial_user_end),
        syscall: between(
            &raw const ftvm_trial_syscall,
            &raw const ftvm_trial_syscall_end,
        ),
        cr4: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_fits_its_page() {
        let program = program();
        for part in [program.kernel, program.user, program.syscall] {
            assert!((1..0x1000).contains(&part.len()), "{}", part.len());
        }
        let sysretq = [0x48, 0x0f, 0x07];
        assert!(
            program.syscall.ends_with(&sysretq),
            "the labels are in order"
        );
    }
}
