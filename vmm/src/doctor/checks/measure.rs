//! What the checks have in common: what they are asked for, how they run a micro-guest, and how
//! they tell what they saw.

use std::time::{Duration, Instant};

use super::super::report::{Finding, with_causes};
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu, Look, Registers};
use crate::kvm::probe::{Event, MicroGuest, PAGES, ProbeError, Program};
use crate::ram::PageSet;

/// A micro-guest that makes no exit for this long hangs. The longest takes a millisecond, but a host
/// whose processors others use as well may stand still for seconds, and can carry guests all the same.
pub(in crate::doctor) const PATIENCE: Duration = Duration::from_secs(5);
/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Whether the host can carry guests: before every start of one.
    Needed,
    /// Also what it costs, and what guests do without.
    All,
}

/// What came of a check: what was found, or why the host cannot.
pub(in crate::doctor) type Measured = Result<Finding, String>;

pub(super) fn failed(error: ProbeError) -> String {
    match error {
        ProbeError::Cpu(CpuError::Emulation { rip, bytes, .. }) => {
            let decoder = iced_x86::Decoder::with_ip(64, &bytes, rip, 0).decode();
            format!(
                "KVM cannot execute {:?} ({:02x?})",
                decoder.mnemonic(),
                &bytes[..decoder.len().min(bytes.len())]
            )
        }
        other => with_causes(&other),
    }
}

pub(super) fn describe(event: Event) -> String {
    match event {
        Event::Exit(Exit::Io(access)) => format!("port {:#x}", access.port),
        Event::Exit(exit) => format!("{exit:?}"),
        Event::Vector { vector, rip, cpl } => {
            let name = match vector {
                1 => " (#DB)",
                6 => " (#UD)",
                8 => " (#DF)",
                13 => " (#GP)",
                14 => " (#PF)",
                _ => "",
            };
            format!("exception or interrupt {vector:#x}{name} at {rip:#x}, CPL {cpl}")
        }
    }
}

/// Runs to a write of `port` and returns the registers there.
pub(super) fn run_to(guest: &mut MicroGuest, port: u16) -> Result<Registers, String> {
    match guest.run().map_err(failed)? {
        Event::Exit(Exit::Io(access)) if access.port == port => registers(guest),
        other => Err(format!("{} in place of port {port:#x}", describe(other))),
    }
}

pub(super) fn registers(guest: &mut MicroGuest) -> Result<Registers, String> {
    guest.cpu().registers().map_err(|e| with_causes(&e))
}

/// Pages that the guest wrote since the last look.
pub(super) fn look_at_writes(guest: &mut MicroGuest) -> Result<PageSet, String> {
    let mut pages = PageSet::empty(PAGES);
    let cpu = guest.cpu();
    cpu.take_written_pages(Look::Open, &mut pages)
        .map_err(|e| with_causes(&e))?;
    // Or they would be named until they are.
    cpu.looked_at(Look::Open, 0..PAGES, &PageSet::empty(PAGES));
    Ok(pages)
}

pub(super) fn load(guest: &mut MicroGuest, program: &Program<'_>) -> Result<(), String> {
    guest.load(program).map_err(|e| with_causes(&e))
}

/// Puts code that runs in kernel mode alone at its start.
pub(super) fn load_kernel(guest: &mut MicroGuest, kernel: &[u8]) -> Result<(), String> {
    load(
        guest,
        &Program {
            kernel,
            ..Program::default()
        },
    )
}

/// How often what costs little is repeated to measure what it costs.
const REPEATS: u32 = 200;

/// Microseconds that one of [`REPEATS`] goes takes.
pub(super) fn microseconds_each(mut go: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let started = Instant::now();
    for _ in 0..REPEATS {
        go()?;
    }
    Ok(microseconds(started) / f64::from(REPEATS))
}

pub(super) fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

pub(super) const RAX: usize = 0;
pub(super) const RBX: usize = 1;
pub(super) const RCX: usize = 2;
pub(super) const RDX: usize = 3;
pub(super) const RBP: usize = 7;
