//! Where the last x87 instruction was: FIP, FDP and FOP, which FNSTENV shows.
//!
//! AMD processors without CPUID 8000_0008h EBX bit 2, and emulators, save and restore them only while an
//! exception is pending (AMD APM volume 2, section 11.4.4). A guest then finds in them what the host
//! computed at its last exit. Nothing traps FNSTENV, so it can only be found out.

use std::arch::asm;

use super::measure::{Effort, Measured, load_kernel, run_to};
use crate::kvm::probe::{DATA, KERNEL, MicroGuest};

/// Where FLDPI is in the program.
const COMPUTES_AT: u64 = KERNEL + 2;
/// FIP in what FNSTENV stores outside 16-bit code (Intel SDM volume 1, figure 8-9).
const FIP: u64 = 12;

pub(super) fn x87_pointers(guest: &mut MicroGuest, _: Effort) -> Measured {
    if are_kept(guest)? {
        Ok("an exit leaves them as they were".into())
    } else {
        // Not which: that is another one in every run, and hosts compare these words.
        Err("after an exit, FNSTENV shows an address of the host".into())
    }
}

/// Whether an exit leaves them as they were.
pub(super) fn are_kept(guest: &mut MicroGuest) -> Result<bool, String> {
    let kernel = [
        0xdb, 0xe3, // fninit
        0xd9, 0xeb, // fldpi
        0xe6, 0x10, // out 0x10, al
        0xd9, 0x34, 0x25, 0x00, 0x30, 0x01, 0x00, // fnstenv [DATA]
        0xe6, 0x11, // out 0x11, al
    ];
    load_kernel(guest, &kernel)?;
    run_to(guest, 0x10)?;
    compute();
    run_to(guest, 0x11)?;
    let fip = guest.read_word(DATA + FIP) & 0xffff_ffff;
    Ok(fip == COMPUTES_AT)
}

/// Executes x87 instructions on this processor, which leave their address in it.
fn compute() {
    // SAFETY: the register stack is as empty behind the two as it was before; all of its registers,
    // which MMX shares, are given as overwritten.
    unsafe {
        asm!(
            "fld1",
            "fstp st(0)",
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}
