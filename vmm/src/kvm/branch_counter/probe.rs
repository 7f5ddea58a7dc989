//! Measures the counter with micro-guests, as rr does (`check_working_counters` in its sources).

use std::time::Duration;

use super::pmu::Pmu;
use super::{BranchCounter, CounterError, caveats};
use crate::counter::table::{Microarchitecture, Signature};
use crate::cpu::{Exit, GuestCpu};
use crate::kvm::probe::{Event, MicroGuest, ProbeError, Program};

/// Branches of one measurement.
const BRANCHES: u32 = 100_000;
/// Branches of a measurement that takes tens of milliseconds, so that ticks of the host, its NMI watchdog
/// and other interrupts come in between.
const MANY_BRANCHES: u32 = 50_000_000;
/// Distances at which the skid is measured, and the first and the step between them.
const ROUNDS: u64 = 1000;
const FIRST: u64 = 500;
const STRIDE: u64 = 37;
/// Branches after which an interrupt that was due has not come.
const OVERDUE: u64 = 10_000_000;
/// Instructions that are single-stepped, three for each branch.
const STEPS: u64 = 300;
/// The guests here end by themselves.
const PATIENCE: Duration = Duration::from_secs(10);

/// A counter that works on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The processor.
    pub row: &'static Microarchitecture,
    /// Events that an interrupt came late at most, as measured; the table's where that is larger.
    pub skid: u64,
    /// Largest skid that was seen.
    pub measured_skid: u64,
    /// What may take it away or spoil a count, and how to mend that.
    pub notes: Vec<&'static str>,
}

/// Finds out whether this host has a counter that can be used, and how late its interrupts are.
/// Takes about a tenth of a second.
///
/// # Errors
/// [`CounterError`] says what is missing or wrong, and how to mend it.
pub fn probe() -> Result<Measured, CounterError> {
    let signature = Signature::of_this_host();
    let row = signature
        .microarchitecture()
        .ok_or(CounterError::UnknownProcessor { signature })?;
    let mut counter = BranchCounter::open(row)?;
    caveats::check(row, &Pmu::of_this_host()?)?;
    let mut guest = MicroGuest::new(PATIENCE)?;
    for _ in 0..2 {
        check_exact(&mut guest, &mut counter, BRANCHES)?;
    }
    check_exact(&mut guest, &mut counter, MANY_BRANCHES)?;
    check_host(&mut counter)?;
    check_steps(&mut guest, &mut counter)?;
    let mut measured_skid = 0;
    for round in 0..ROUNDS {
        let distance = FIRST + STRIDE * round;
        measured_skid = measured_skid.max(skid(&mut guest, &mut counter, distance)?);
    }
    Ok(Measured {
        row,
        skid: measured_skid.max(row.skid),
        measured_skid,
        notes: caveats::notes(row),
    })
}

/// Between two exits, a loop of so many conditional branches, which has three instructions a turn.
fn looping(branches: u32) -> Vec<u8> {
    let mut code = vec![0xe6, 0x10, 0xb9]; // out 0x10, al; mov ecx, branches
    code.extend_from_slice(&branches.to_le_bytes());
    code.extend_from_slice(&[
        0x48, 0xff, 0xc0, // again: inc rax
        0xff, 0xc9, // dec ecx
        0x75, 0xf9, // jnz again
        0xe6, 0x11, // out 0x11, al
    ]);
    code
}

/// Loads the loop and runs to its start.
fn start(guest: &mut MicroGuest, branches: u32) -> Result<(), CounterError> {
    let kernel = looping(branches);
    guest.load(&Program {
        kernel: &kernel,
        ..Program::default()
    })?;
    guest.run()?;
    Ok(())
}

fn check(during: &'static str, executed: u64, counted: u64) -> Result<(), CounterError> {
    if counted == executed {
        return Ok(());
    }
    Err(CounterError::NotExact {
        during,
        executed,
        counted,
    })
}

fn check_exact(
    guest: &mut MicroGuest,
    counter: &mut BranchCounter,
    branches: u32,
) -> Result<(), CounterError> {
    start(guest, branches)?;
    let before = counter.count()?;
    guest.run()?;
    let counted = counter.count()? - before;
    check("a loop between two exits", u64::from(branches), counted)
}

fn check_host(counter: &mut BranchCounter) -> Result<(), CounterError> {
    let before = counter.count()?;
    let mut turns = 0_u32;
    while std::hint::black_box(turns) < BRANCHES {
        turns += 1;
    }
    match counter.count()? - before {
        0 => Ok(()),
        counted => Err(CounterError::CountsHost(counted)),
    }
}

/// Every step is an exit and an entry of its own, and counts nothing of them.
fn check_steps(guest: &mut MicroGuest, counter: &mut BranchCounter) -> Result<(), CounterError> {
    start(guest, BRANCHES)?;
    // Over the OUT that was made, and the MOV.
    guest.step()?;
    guest.step()?;
    let before = counter.count()?;
    for _ in 0..STEPS {
        guest.step()?;
    }
    let counted = counter.count()? - before;
    // Of three steps in a row one is a branch, wherever the first ones ended.
    check("single-stepping", STEPS / 3, counted)
}

/// How many events late the interrupt comes that is due after `distance` events.
fn skid(
    guest: &mut MicroGuest,
    counter: &mut BranchCounter,
    distance: u64,
) -> Result<u64, CounterError> {
    start(guest, OVERDUE as u32)?;
    counter.restart()?;
    counter.interrupt_after(distance)?;
    loop {
        let exit = guest.cpu().run().map_err(ProbeError::from)?;
        let counted = counter.count()?;
        match exit {
            Exit::Kicked if counted >= distance => return Ok(counted - distance),
            // A signal that was not the counter's.
            Exit::Kicked => {}
            Exit::Io(_) => return Err(CounterError::NoInterrupt { branches: counted }),
            other => {
                let event = format!("{:?} in place of an interrupt", Event::Exit(other));
                let error = crate::cpu::CpuError::UnknownExit(event);
                return Err(ProbeError::from(error).into());
            }
        }
    }
}
