//! Stops between exits, and traps of instructions that do not exit.

use super::super::report::{Finding, with_causes};
use super::measure::{
    Effort, Measured, RAX, describe, failed, load, load_kernel, microseconds_each, registers,
};
use super::processor::to_user;
use crate::cpu::Exit;
use crate::kvm::probe::{CR4_TSD, Event, KERNEL, MicroGuest, Program, USER};

/// Eight times `inc eax`.
const COUNTING: [u8; 16] = [
    0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0,
];

pub(super) fn single_step(guest: &mut MicroGuest, effort: Effort) -> Measured {
    load_kernel(guest, &COUNTING)?;
    for step in 1..=8 {
        let rip = guest.step().map_err(failed)?;
        let rax = registers(guest)?.gpr[RAX];
        if (rip, rax) != (KERNEL + 2 * step, step) {
            return Err(format!(
                "step {step} stopped after {rax} instructions at {rip:#x}"
            ));
        }
    }
    let mut finding = Finding::from("8 steps, one instruction each");
    if effort == Effort::All {
        load_kernel(guest, &[0xeb, 0xfe])?; // jmp $
        let step_us = microseconds_each(|| guest.step().map(drop).map_err(failed))?;
        finding = finding.with("step_us", step_us);
    }
    Ok(finding)
}

pub(super) fn tsc_trap(guest: &mut MicroGuest, effort: Effort) -> Measured {
    let kernel = to_user();
    load(
        guest,
        &Program {
            kernel: &kernel,
            user: &[0x0f, 0x31, 0x0f, 0x05],    // rdtsc; syscall
            syscall: &[0xe6, 0x10, 0xeb, 0xfe], // out 0x10, al; jmp $
            cr4: CR4_TSD,
        },
    )?;
    let fault = |guest: &mut MicroGuest| match guest.run().map_err(failed)? {
        Event::Vector {
            vector: 13,
            rip: USER,
            cpl: 3,
        } => Ok(()),
        Event::Exit(Exit::Io(_)) => Err("CR4.TSD is ignored".into()),
        other => Err(format!("{} in place of a fault", describe(other))),
    };
    fault(guest)?;
    // With that program still there.
    let read_us = (effort == Effort::All)
        .then(|| {
            microseconds_each(|| {
                // To itself: the fault comes again.
                guest.return_from_fault().map_err(|e| with_causes(&e))?;
                fault(guest)
            })
        })
        .transpose()?;
    let (rdtscp, rdpid) = (rdtscp(guest)?, rdpid(guest)?);
    let finding: Finding =
        format!("RDTSC with CR4.TSD faults, RDTSCP: {rdtscp}; RDPID: {rdpid}").into();
    Ok(match read_us {
        Some(read_us) => finding.with("read_us", read_us),
        None => finding,
    })
}

/// Loads `instruction` for user mode, where a system call that exits follows it. Returns what comes.
fn in_user_mode(guest: &mut MicroGuest, instruction: &[u8]) -> Result<Event, String> {
    let kernel = to_user();
    load(
        guest,
        &Program {
            kernel: &kernel,
            user: &[instruction, &[0x0f, 0x05]].concat(), // syscall
            syscall: &[0xe6, 0x10, 0xeb, 0xfe],           // out 0x10, al; jmp $
            cr4: CR4_TSD,
        },
    )?;
    guest.run().map_err(failed)
}

/// How RDTSCP faults, which CPUID hides.
fn rdtscp(guest: &mut MicroGuest) -> Result<&'static str, String> {
    match in_user_mode(guest, &[0x0f, 0x01, 0xf9])? {
        Event::Vector { vector: 13, .. } => Ok("#GP"),
        Event::Vector { vector: 6, .. } => Ok("#UD"),
        other => Err(format!("{} in place of a fault of RDTSCP", describe(other))),
    }
}

/// What becomes of RDPID, which CPUID hides and nothing intercepts.
fn rdpid(guest: &mut MicroGuest) -> Result<&'static str, String> {
    match in_user_mode(guest, &[0xf3, 0x0f, 0xc7, 0xf8])? {
        Event::Vector { vector: 6, .. } => Ok("#UD"),
        Event::Exit(Exit::Io(_)) => match registers(guest)?.gpr[RAX] {
            0 => Ok("0"),
            // The number is that of the host's processor, which is another one in every run.
            _ => Ok("the host's"),
        },
        other => Err(format!("{} in place of RDPID's answer", describe(other))),
    }
}

pub(super) fn hardware_breakpoint(guest: &mut MicroGuest, effort: Effort) -> Measured {
    let mut kernel = COUNTING.to_vec();
    kernel.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    load_kernel(guest, &kernel)?;
    let stop_at = |guest: &mut MicroGuest, at| match guest.run_to_breakpoint(at).map_err(failed)? {
        Some(rip) if rip == at => Ok(()),
        Some(rip) => Err(format!("stopped at {rip:#x}")),
        None => Err("never stops".into()),
    };
    stop_at(guest, KERNEL + 6)?;
    let mut finding = Finding::from("stops before its instruction");
    if effort == Effort::All {
        load_kernel(guest, &[0x90, 0x90, 0xeb, 0xfc])?; // nop; nop; jmp KERNEL
        let mut places = [KERNEL + 1, KERNEL].into_iter().cycle();
        let stop_us = microseconds_each(|| stop_at(guest, places.next().unwrap_or(KERNEL)))?;
        finding = finding.with("stop_us", stop_us);
    }
    Ok(finding)
}
