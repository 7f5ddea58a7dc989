//! What has to be right on this host and shows in no measurement.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use perf_event::Builder;
use perf_event::events::Raw;

use super::error::CounterError;
use super::pmu::Pmu;
use crate::counter::table::{Caveat, Microarchitecture};
use crate::host_kernel::Release;

/// Model specific registers of the first processor (msr(4)). What a firmware or `wrmsr -a` sets is
/// the same on all.
const MSRS: &str = "/dev/cpu/0/msr";
/// "LS_CFG2", whose bit 54 switches SpecLockMap off.
const SPEC_LOCK_MAP: (u64, u64) = (0xc001_1020, 1 << 54);
/// Retired lock instructions (PMCx025) that SpecLockMap has to do with: none where it is off
/// (`check_for_zen_speclockmap` in rr's sources).
const SPEC_LOCK_MAP_COMMITS: u64 = 0x0825;
/// The first Linux whose KVM leaves the freezing of counters in system management mode on while a guest
/// runs (commit 6b1dd26544d0, "Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM while running the guest").
const FREEZES_IN_GUESTS: (u32, u32) = (6, 17);

const NMI_WATCHDOG: &str = "/proc/sys/kernel/nmi_watchdog";
const MEDIATED_PMU: [&str; 2] = [
    "/sys/module/kvm_intel/parameters/enable_mediated_pmu",
    "/sys/module/kvm_amd/parameters/enable_mediated_pmu",
];

fn says(path: impl AsRef<std::path::Path>, yes: &[&str]) -> bool {
    fs::read_to_string(path).is_ok_and(|text| yes.contains(&text.trim()))
}

/// # Errors
/// [`CounterError::Caveat`] for the first that is not right, or cannot be told.
pub(super) fn check(row: &Microarchitecture, pmu: &Pmu) -> Result<(), CounterError> {
    for caveat in row.caveats {
        let freezes = || says(pmu.directory.join("freeze_on_smi"), &["1"]);
        if let Some(unmet) = unmet(*caveat, freezes, spec_locks) {
            return Err(CounterError::Caveat(unmet));
        }
    }
    Ok(())
}

fn unmet(
    caveat: Caveat,
    freezes_on_smi: impl Fn() -> bool,
    spec_locks: impl Fn() -> Option<bool>,
) -> Option<&'static str> {
    match caveat {
        // Every stop is checked, and one that was overrun is repaired.
        Caveat::UnboundedSkid => None,
        Caveat::FreezeOnSmi => (!freezes_on_smi()).then_some(
            "it counts what the firmware does in system management interrupts: write 1 to \
             /sys/devices/cpu/freeze_on_smi (cpu_core in place of cpu on hybrid processors), at each \
             boot, as with a file in /etc/tmpfiles.d",
        ),
        Caveat::SpecLockMap => match spec_locks() {
            Some(false) => None,
            Some(true) => Some(
                "locked instructions spoil its count: set bit 54 of MSR 0xc0011020 on all \
                 processors (https://github.com/rr-debugger/rr/wiki/Zen)",
            ),
            None => Some(
                "it cannot be told whether locked instructions spoil its count: let ftvm count its \
                 own events (kernel.perf_event_paranoid 2 or less), or load the kernel module msr and \
                 run as root",
            ),
        },
    }
}

/// Whether locks are speculated on, as trying shows; or else as the register says, if it may be read.
fn spec_locks() -> Option<bool> {
    spec_lock_commits().or_else(|| {
        let value = msr(SPEC_LOCK_MAP.0)?;
        Some(value & SPEC_LOCK_MAP.1 == 0)
    })
}

fn spec_lock_commits() -> Option<bool> {
    const LOCKS: u32 = 1000;
    let mut counter = Builder::new(Raw::new(SPEC_LOCK_MAP_COMMITS)).build().ok()?;
    counter.enable().ok()?;
    let locked = AtomicU32::new(0);
    for _ in 0..LOCKS {
        std::hint::black_box(&locked).fetch_add(1, Ordering::SeqCst);
    }
    let read = counter.read_count_and_time().ok()?;
    // One that never ran has counted nothing whatever happened.
    (read.time_running > 0).then_some(read.count > 0)
}

fn msr(index: u64) -> Option<u64> {
    let mut value = [0; 8];
    let registers = File::open(MSRS).ok()?;
    registers.read_exact_at(&mut value, index).ok()?;
    Some(u64::from_le_bytes(value))
}

/// What does not keep the counter from being used, but may take it away or spoil a count.
pub(super) fn notes(row: &Microarchitecture) -> Vec<&'static str> {
    let is_old = || {
        let release = Release::of_host().numbers();
        release.is_some_and(|release| release < FREEZES_IN_GUESTS)
    };
    notes_of(
        row.caveats.contains(&Caveat::FreezeOnSmi) && is_old(),
        says(NMI_WATCHDOG, &["1"]),
        MEDIATED_PMU.iter().any(|path| says(path, &["Y", "1"])),
    )
}

fn notes_of(counts_smis: bool, nmi_watchdog: bool, mediated_pmu: bool) -> Vec<&'static str> {
    let notes = [
        counts_smis.then_some(
            "before Linux 6.17, unless its makers mended it, system management interrupts that come \
             while the guest runs are counted all the same: each makes a backup ask for the state, \
             and three in a thousand stops end the counting",
        ),
        nmi_watchdog.then_some(
            "the NMI watchdog uses one of the processor's counters (kernel.nmi_watchdog=0 with sysctl \
             gives it back)",
        ),
        mediated_pmu.then_some(
            "KVM lends counters to guests (enable_mediated_pmu): such a guest does not start while \
             ftvm counts, and ftvm does not count while one runs",
        ),
    ];
    notes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_is_not_assumed() {
        let found = |caveat, freezes, locks| unmet(caveat, || freezes, || locks);
        assert_eq!(found(Caveat::UnboundedSkid, false, None), None);
        assert_eq!(found(Caveat::FreezeOnSmi, true, None), None);
        assert!(found(Caveat::FreezeOnSmi, false, None).is_some());
        assert_eq!(found(Caveat::SpecLockMap, false, Some(false)), None);
        assert!(found(Caveat::SpecLockMap, false, Some(true)).is_some());
        assert!(found(Caveat::SpecLockMap, false, None).is_some());
    }

    #[test]
    fn what_may_spoil_a_count_is_named() {
        assert!(notes_of(false, false, false).is_empty());
        for (notes, word) in [
            (notes_of(true, false, false), "6.17"),
            (notes_of(false, true, false), "kernel.nmi_watchdog=0"),
            (notes_of(false, false, true), "enable_mediated_pmu"),
        ] {
            assert!(notes.len() == 1 && notes[0].contains(word), "{notes:?}");
        }
    }
}
