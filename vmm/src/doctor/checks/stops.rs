//! Stops of a guest that makes no exit: what the latency of its inputs rests on.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::signal::SIGRTMIN;

use super::{Effort, Finding, Measured, RAX, failed, load, registers};
use crate::cpu::{Exit, GuestCpu};
use crate::kvm::probe::{MicroGuest, Program};

/// How long a guest computes before it is stopped.
const COMPUTING: Duration = Duration::from_millis(2);
/// When it is stopped again, if the first signal came before it ran.
const AGAIN: Duration = Duration::from_millis(1);

/// Runs a guest that makes no exit and stops it with a signal. Returns how long the stop took.
pub(super) fn stop_computing(guest: &mut MicroGuest) -> Result<Duration, String> {
    // SAFETY: has no preconditions.
    let this_thread = unsafe { libc::pthread_self() };
    let started = Instant::now();
    let sent_nanos = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let (exit, came) = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(COMPUTING);
            while !stopped.load(Ordering::Acquire) {
                sent_nanos.store(started.elapsed().as_nanos() as u64, Ordering::Release);
                // SAFETY: the thread waits for the end of this scope. The doctor handles the
                // signal, whose only effect is that KVM_RUN returns.
                unsafe { libc::pthread_kill(this_thread, SIGRTMIN()) };
                thread::sleep(AGAIN);
            }
        });
        let exit = guest.cpu().run();
        let came = started.elapsed();
        stopped.store(true, Ordering::Release);
        (exit, came)
    });
    let sent = Duration::from_nanos(sent_nanos.load(Ordering::Acquire));
    match exit.map_err(|e| failed(e.into()))? {
        Exit::Kicked => Ok(came.saturating_sub(sent)),
        other => Err(format!("{other:?} in place of a stop")),
    }
}

pub(super) fn kick(guest: &mut MicroGuest, effort: Effort) -> Measured {
    let rounds = if effort == Effort::All { 11 } else { 1 };
    load(
        guest,
        &Program {
            kernel: &[0x48, 0xff, 0xc0, 0xeb, 0xfb], // again: inc rax; jmp again
            ..Program::default()
        },
    )?;
    let mut took = Vec::new();
    let mut counted = 0;
    // On a busy host the signal may come before the guest runs at all.
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
    let mut finding = Finding::from("a computing guest stops for a signal");
    if effort == Effort::All {
        took.sort_unstable();
        let us = |at: usize| took[at].as_secs_f64() * 1e6;
        finding = finding
            .with("stop_us", us(took.len() / 2))
            .with("longest_stop_us", us(took.len() - 1));
    }
    Ok(finding)
}

/// Where Linux lists the performance counters of processors: one kind, or two on hybrids.
const COUNTERS: [&str; 2] = [
    "/sys/bus/event_source/devices/cpu",
    "/sys/bus/event_source/devices/cpu_core",
];

/// Whether guest-only counting of retired branches works, and how late its interrupts come.
///
/// This looks only whether there is a counter: nothing counts with it yet.
pub(super) fn counter(_: &mut MicroGuest, _: Effort) -> Measured {
    if COUNTERS
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false))
    {
        Err("there is a hardware counter, but this version does not use it".into())
    } else {
        Err("no hardware counter: Linux has no event source \"cpu\"".into())
    }
}
