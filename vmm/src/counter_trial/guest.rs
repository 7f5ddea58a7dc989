//! The micro-guest of the trial.

use std::arch::global_asm;
use std::ops::Range;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use crate::kvm::MachineError;
use crate::kvm::paging::Paging;
use crate::kvm::probe::{DATA, MicroGuest, Program};
use crate::kvm::stepped::{SteppedCpu, StopPlan};
use crate::ram::GuestRam;

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

/// Ports that it uses: interrupt controller, timer, and one that nothing answers. A write to any
/// other one is an exception that it has no handler for.
pub(super) const PORTS: [u16; 5] = [0x20, 0x21, 0x40, 0x43, 0x80];

/// The port that it reads once a lap.
pub(super) const LAP_PORT: u16 = 0x80;

/// What is counted from one read of [`LAP_PORT`] to the next: 219 instructions that are no strings,
/// 24 + 9 + 24 + 7 iterations of those, and the delivery of two exceptions; and what ages the pages.
pub(super) fn lap(paging: Paging) -> u64 {
    match aged_pages(paging) {
        0 => 285,
        pages => 286 + 5 * pages,
    }
}

/// Where the guest finds how many pages to age (`AGED` in guest.S).
const AGED: u64 = DATA + 0x58;

/// Under nested paging the processor's TLB decides which accessed bits are set, and every step of the
/// guest may change what is in that.
fn aged_pages(paging: Paging) -> u64 {
    match paging {
        Paging::Shadow => 8,
        Paging::Nested => 0,
    }
}

/// What the guest has counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Timer interrupts.
    pub(super) ticks: u64,
    pub(super) page_faults: u64,
    pub(super) undefined: u64,
}

impl Counts {
    pub(super) fn read(memory: &GuestRam) -> Self {
        let word = |n: u64| {
            let word = memory.read_obj::<u64>(GuestAddress(DATA + 8 * n));
            word.expect("the guest's data lies in its memory")
        };
        Self {
            ticks: word(1),
            page_faults: word(2),
            undefined: word(3),
        }
    }
}

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

/// The guest, its instructions counted.
pub(super) fn micro_guest(stops: StopPlan) -> Result<SteppedCpu, MachineError> {
    Ok(SteppedCpu::new(unstepped()?.into_cpu(), stops))
}

/// The guest.
pub(super) fn unstepped() -> Result<MicroGuest, MachineError> {
    // Its patience is for those who let it run itself.
    let mut guest = MicroGuest::new(Duration::MAX)?;
    guest.load(&program())?;
    guest.write_word(AGED, aged_pages(Paging::of_host()));
    Ok(guest)
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
