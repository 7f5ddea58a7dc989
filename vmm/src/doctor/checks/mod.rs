//! The checks. Each returns what was found, or what was seen in its place.

mod debug;
mod exits;
mod processor;
mod stops;
mod transfer;
mod x87;

use std::fs;
use std::time::Instant;

use crate::cpu::{CpuError, Exit, GuestCpu, Registers};
use crate::kvm::probe::{Event, MicroGuest, ProbeError, Program};
use crate::kvm::{CpuModel, CpuModelError, MachineError};

use super::Effort;
use super::report::{Finding, with_causes};

/// What came of a check: what was found, or why the host cannot.
pub(super) type Measured = Result<Finding, String>;
type MicroGuestCheck = fn(&mut MicroGuest, Effort) -> Measured;

/// The checks that run a micro-guest, with the least effort that includes them.
pub(super) const MICRO_GUESTS: [(&str, Effort, MicroGuestCheck); 15] = [
    ("long_mode", Effort::Needed, processor::long_mode),
    ("user_mode", Effort::Needed, processor::user_mode),
    ("cpuid", Effort::Needed, processor::cpuid),
    ("exits", Effort::Needed, exits::exits),
    ("halt", Effort::Needed, exits::halt),
    ("interrupts", Effort::Needed, exits::interrupts),
    ("msr_filter", Effort::Needed, exits::msr_filter),
    ("single_step", Effort::Needed, debug::single_step),
    ("tsc_trap", Effort::Needed, debug::tsc_trap),
    ("kick", Effort::Needed, stops::kick),
    ("dirty_logging", Effort::Needed, transfer::dirty_logging),
    ("state_transfer", Effort::Needed, transfer::state_transfer),
    ("counter", Effort::Needed, stops::counter),
    ("x87_pointers", Effort::Needed, x87::x87_pointers),
    (
        "hardware_breakpoint",
        Effort::All,
        debug::hardware_breakpoint,
    ),
];

/// Reports the checks that come before a micro-guest. Returns whether micro-guests can be tried.
pub(super) fn machine(
    model: &Result<CpuModel, MachineError>,
    tell: impl Fn(&'static str, Measured),
) -> bool {
    let error = match model {
        Ok(model) => {
            tell("device", Ok(opened()));
            tell("api", Ok("version 12, nothing missing".into()));
            tell("cpu_model", Ok(name(model).into()));
            return true;
        }
        Err(error) => error,
    };
    let failed = Err(match error {
        // Its own message says how to mend it, as the report does.
        MachineError::CpuModel(CpuModelError::Missing(features)) => {
            format!("lacks {}", features.join(", "))
        }
        other => with_causes(other),
    });
    if matches!(error, MachineError::Open(_)) {
        tell("device", failed);
        return false;
    }
    tell("device", Ok(opened()));
    if !matches!(error, MachineError::CpuModel(_)) {
        tell("api", failed);
        return false;
    }
    tell("api", Ok("version 12, nothing missing".into()));
    tell("cpu_model", failed);
    true
}

/// With the kernel's release: two hosts may differ because their KVMs do.
fn opened() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("yes, Linux {}", release.trim()).trim().into()
}

fn name(model: &CpuModel) -> String {
    let vendor = model.leaf(0).map_or_else(String::new, |[_, b, c, d]| {
        let bytes = [b, d, c].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let digest = model.digest();
    format!(
        "x86-64-v2 with AES, {vendor}, digest {:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    )
}

fn failed(error: ProbeError) -> String {
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

fn describe(event: Event) -> String {
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
fn run_to(guest: &mut MicroGuest, port: u16) -> Result<Registers, String> {
    match guest.run().map_err(failed)? {
        Event::Exit(Exit::Io(access)) if access.port == port => registers(guest),
        other => Err(format!("{} in place of port {port:#x}", describe(other))),
    }
}

fn registers(guest: &mut MicroGuest) -> Result<Registers, String> {
    guest.cpu().registers().map_err(|e| with_causes(&e))
}

fn load(guest: &mut MicroGuest, program: &Program<'_>) -> Result<(), String> {
    guest.load(program).map_err(|e| with_causes(&e))
}

/// How often what costs little is repeated to measure what it costs.
const REPEATS: u32 = 200;

/// Microseconds that one of [`REPEATS`] goes takes.
fn microseconds_each(mut go: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let started = Instant::now();
    for _ in 0..REPEATS {
        go()?;
    }
    Ok(microseconds(started) / f64::from(REPEATS))
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

const RAX: usize = 0;
const RBX: usize = 1;
const RDX: usize = 3;
const RBP: usize = 7;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::catalogue::CATALOGUE;
    use super::*;

    /// A hang is blamed on the first check of the report without an outcome.
    #[test]
    fn checks_are_made_in_the_order_of_the_report() {
        let made = RefCell::new(Vec::new());
        let lacking = CpuModelError::Missing(vec!["aes"]);
        let goes_on = machine(&Err(MachineError::CpuModel(lacking)), |id, _| {
            made.borrow_mut().push(id);
        });
        assert!(goes_on, "micro-guests tell more");
        let mut made = made.into_inner();
        made.extend(MICRO_GUESTS.iter().map(|(id, ..)| *id));
        let reported: Vec<&str> = CATALOGUE.iter().map(|entry| entry.id).collect();
        assert_eq!(made, reported);

        let efforts = MICRO_GUESTS.iter().map(|(_, effort, _)| *effort);
        assert!(
            efforts.is_sorted(),
            "what is made before a start comes first"
        );
        for (id, effort, _) in &MICRO_GUESTS {
            let entry = CATALOGUE.iter().find(|entry| entry.id == *id);
            let required = entry.is_some_and(|entry| entry.required);
            assert!(!required || *effort == Effort::Needed, "{id} is required");
        }
    }
}
