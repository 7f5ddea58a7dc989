//! Stops of a guest that makes no exit: what the latency of its inputs rests on.

use std::time::{Duration, Instant};

use super::super::report::{Finding, with_causes};
use super::measure::{Effort, Measured, RAX, failed, load_kernel, registers};
use crate::cpu::{Exit, GuestCpu};
use crate::kvm::branch_counter;
use crate::kvm::probe::MicroGuest;
use crate::sources::Watchdog;

/// How long a guest computes before it is stopped.
const COMPUTING: Duration = Duration::from_millis(1);

/// Runs a guest that makes no exit and stops it as a guest is stopped whose input waits. Returns
/// how much later than asked it came.
pub(super) fn stop_computing(guest: &mut MicroGuest) -> Result<Duration, String> {
    let watchdog = Watchdog::start(COMPUTING).map_err(|e| format!("no watchdog: {e}"))?;
    let entered = Instant::now();
    watchdog.enter();
    let exit = guest.cpu().run();
    let ran = entered.elapsed();
    watchdog.leave();
    match exit.map_err(|e| failed(e.into()))? {
        Exit::Kicked => Ok(ran.saturating_sub(COMPUTING)),
        other => Err(format!("{other:?} in place of a stop")),
    }
}

pub(super) fn kick(guest: &mut MicroGuest, effort: Effort) -> Measured {
    let rounds = if effort == Effort::All { 11 } else { 1 };
    load_kernel(guest, &[0x48, 0xff, 0xc0, 0xeb, 0xfb])?; // again: inc rax; jmp again
    let mut took = Vec::new();
    let mut counted = 0;
    // On a busy host the stop may come before the guest runs at all.
    for _ in 0..2 * rounds + 8 {
        let stop = stop_computing(guest)?;
        let rax = registers(guest)?.gpr[RAX];
        if rax > counted {
            took.push(stop);
            counted = rax;
        }
        if took.len() == rounds {
            break;
        }
    }
    if took.len() < rounds {
        return Err(format!("it ran in {} of {rounds} rounds only", took.len()));
    }
    let mut finding = Finding::from("stops for a signal");
    if effort == Effort::All {
        took.sort_unstable();
        let us = |at: usize| took[at].as_secs_f64() * 1e6;
        finding = finding
            .with("stop_late_us", us(took.len() / 2))
            .with("stop_late_at_most_us", us(took.len() - 1));
    }
    Ok(finding)
}

/// Whether guest-only counting of retired branches works, and how late its interrupts come.
pub(super) fn counter(_: &mut MicroGuest, _: Effort) -> Measured {
    let found = branch_counter::probe().map_err(|error| with_causes(&error))?;
    let mut text = format!(
        "conditional branches as on {} are counted exactly, interrupts come up to {} late",
        found.row.name, found.measured_skid
    );
    for note in &found.notes {
        text = format!("{text}; {note}");
    }
    Ok(Finding::from(text).with("skid", found.measured_skid as f64))
}
