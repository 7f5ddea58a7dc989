//! What has to be right on this host and shows in no measurement.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::CounterError;
use crate::counter::table::{Caveat, Microarchitecture};

const FREEZE_ON_SMI: &str = "/sys/devices/cpu/freeze_on_smi";
/// Model specific registers of the first processor (msr(4)). What a firmware or `wrmsr -a` sets is
/// the same on all.
const MSRS: &str = "/dev/cpu/0/msr";
/// "LS_CFG2", whose bit 54 switches SpecLockMap off.
const SPEC_LOCK_MAP: (u64, u64) = (0xc001_1020, 1 << 54);

/// # Errors
/// [`CounterError::Caveat`] for the first that is not right, or cannot be told.
pub(super) fn check(row: &Microarchitecture) -> Result<(), CounterError> {
    for caveat in row.caveats {
        let freezes = || fs::read_to_string(FREEZE_ON_SMI).is_ok_and(|text| text.trim() == "1");
        if let Some(unmet) = unmet(*caveat, freezes, || msr(SPEC_LOCK_MAP.0)) {
            return Err(CounterError::Caveat(unmet));
        }
    }
    Ok(())
}

fn unmet(
    caveat: Caveat,
    freezes_on_smi: impl Fn() -> bool,
    msr: impl Fn() -> Option<u64>,
) -> Option<&'static str> {
    match caveat {
        // Every stop is checked, and one that was overrun is reported.
        Caveat::UnboundedSkid => None,
        Caveat::FreezeOnSmi => (!freezes_on_smi()).then_some(
            "it counts what the firmware does in system management interrupts: write 1 to \
             /sys/devices/cpu/freeze_on_smi",
        ),
        Caveat::Hybrid => Some(
            "this processor's cores are of two kinds, which count differently: this version uses \
             no counter there",
        ),
        Caveat::SpecLockMap => match msr() {
            Some(value) if value & SPEC_LOCK_MAP.1 != 0 => None,
            Some(_) => Some(
                "locked instructions spoil its count: set bit 54 of MSR 0xc0011020 on all \
                 processors (https://github.com/rr-debugger/rr/wiki/Zen)",
            ),
            None => Some(
                "it cannot be told whether locked instructions spoil its count: load the kernel \
                 module msr, and run as root",
            ),
        },
    }
}

fn msr(index: u64) -> Option<u64> {
    let mut value = [0; 8];
    let registers = File::open(MSRS).ok()?;
    registers.read_exact_at(&mut value, index).ok()?;
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_is_not_assumed() {
        let found = |caveat, freezes, msr| unmet(caveat, || freezes, || msr);
        assert_eq!(found(Caveat::UnboundedSkid, false, None), None);
        assert_eq!(found(Caveat::FreezeOnSmi, true, None), None);
        assert!(found(Caveat::FreezeOnSmi, false, None).is_some());
        assert!(found(Caveat::Hybrid, true, Some(u64::MAX)).is_some());
        assert_eq!(found(Caveat::SpecLockMap, false, Some(1 << 54)), None);
        assert!(found(Caveat::SpecLockMap, false, Some(1 << 53)).is_some());
        assert!(found(Caveat::SpecLockMap, false, None).is_some());
    }
}
