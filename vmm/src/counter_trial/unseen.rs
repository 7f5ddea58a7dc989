//! Whether a guest is the same when its instructions are counted.

use vm_memory::{Bytes, GuestAddress};

use super::error::TrialError;
use super::guest::{self, micro_guest, unstepped};
use crate::cpu::{CpuError, Exit, GuestCpu, Registers};
use crate::kvm::paging::Paging;
use crate::kvm::stepped::StopPlan;
use crate::ram::GuestRam;

/// Exits of each run.
const EXITS: usize = 40;

/// Runs the guest freely and counted, without interrupts, and compares registers at every exit,
/// instructions between two of them, and memory at the end. Returns how many exits there were.
pub(super) fn compare() -> Result<u64, TrialError> {
    let free = unstepped()?;
    let free_memory = free.memory().clone();
    let expected = registers_at_exits(&mut free.into_cpu(), |_| {})?;
    let mut counted = micro_guest(StopPlan::Never)?;
    let mut laps = Vec::new();
    let seen = registers_at_exits(&mut counted, |cpu| laps.push(cpu.last_count()))?;
    let paging = Paging::of_host();
    let expected_lap = guest::lap(paging);
    if let Some(lap) = laps.iter().skip(1).find(|lap| **lap != expected_lap) {
        let difference = format!("{lap} instructions were counted where it has {expected_lap}");
        return Err(TrialError::Visible(difference));
    }
    for (exit, (expected, seen)) in (1..).zip(expected.iter().zip(&seen)) {
        let values = expected.fields().into_iter().zip(seen.fields());
        for (name, (expected, seen)) in Registers::NAMES.into_iter().zip(values) {
            if expected != seen {
                let difference =
                    format!("at exit {exit}, {name} is {seen:#x} in place of {expected:#x}");
                return Err(TrialError::Visible(difference));
            }
        }
    }
    match first_different_word(&free_memory, counted.memory(), paging) {
        None => Ok(EXITS as u64),
        Some((address, expected, seen)) => Err(TrialError::Visible(format!(
            "memory at {address:#x} is {seen:#x} in place of {expected:#x}"
        ))),
    }
}

fn registers_at_exits<C: GuestCpu>(
    cpu: &mut C,
    mut at_lap: impl FnMut(&C),
) -> Result<Vec<Registers>, CpuError> {
    let mut registers = Vec::new();
    while registers.len() < EXITS {
        match cpu.run()? {
            Exit::Kicked => continue,
            Exit::Io(access) if guest::PORTS.contains(&access.port) => {
                if !access.write {
                    cpu.io_data().fill(0xff);
                }
                if access.port == guest::LAP_PORT {
                    at_lap(cpu);
                }
            }
            other => {
                let event = format!("{other:?} of a guest that makes none");
                return Err(CpuError::UnknownExit(event));
            }
        }
        registers.push(cpu.registers()?);
    }
    Ok(registers)
}

/// Address of the first 64-bit word that differs, and the two values.
///
/// The accessed and dirty bits of page tables are left out under nested paging: the processor sets them
/// when its TLB makes it look, and may do so ahead of time.
fn first_different_word(
    one: &GuestRam,
    other: &GuestRam,
    paging: Paging,
) -> Option<(u64, u64, u64)> {
    const ACCESSED_DIRTY: u64 = 0x60;
    let word = |memory: &GuestRam, at| {
        let word: u64 = memory.read_obj(GuestAddress(at)).ok()?;
        let in_table =
            paging == Paging::Nested && guest::PAGE_TABLES.iter().any(|pages| pages.contains(&at));
        Some(if in_table {
            word & !ACCESSED_DIRTY
        } else {
            word
        })
    };
    (0..)
        .step_by(8)
        .map_while(|at| Some((at, word(one, at)?, word(other, at)?)))
        .find(|(_, a, b)| a != b)
}
