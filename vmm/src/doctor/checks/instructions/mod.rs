//! What this processor does where processors differ: the results of a table of instructions, for the
//! other host of a pair to compare.
//!
//! They run as a guest's do, with its CPU model and control registers. Besides what the driver needs,
//! memory has:
//!
//! ```text
//!  0x14800 what FXRSTOR loads   0x15000 plan    0x20000 operands
//!  0x14a00 masks                0x18000 forms
//! ```

mod operands;
mod table;

use std::arch::global_asm;

use logging_channel::{InstructionResult, InstructionResults};
use vm_memory::{Bytes, GuestAddress};
use xxhash_rust::xxh64::xxh64;

use self::operands::{BLANK, Operands, RECORD_WORDS, ResultMask, SET_BYTES};
use self::table::{FORM_BYTES, Instruction, TABLE};
use super::super::report::{Finding, with_causes};
use super::measure::{Effort, Measured, RBP, describe, failed, load, registers};
use super::x87;
use crate::cpu::{Exit, GuestCpu};
use crate::kvm::probe::{Event, KERNEL, MicroGuest, Program};

global_asm!(include_str!("driver.S"));

unsafe extern "C" {
    static ftvm_table: u8;
    static ftvm_table_resume: u8;
    static ftvm_table_next: u8;
    static ftvm_table_end: u8;
    static ftvm_forms: u8;
    static ftvm_forms_end: u8;
}

const EXCEPTION: u64 = 0x1_4000 + 56;
const BLANK_IMAGE: u64 = 0x1_4800;
const MASKS: u64 = 0x1_4a00;
const PLAN: u64 = 0x1_5000;
const PLAN_ENTRY: u64 = 40;
/// Where an entry of the plan has its digest.
const PLAN_DIGEST: u64 = 32;
const FORMS: u64 = 0x1_8000;
const OPERANDS: u64 = 0x2_0000;

const UNDEFINED_OPCODE: u8 = 6;
/// What the pointers come to where an exit, or an interrupt of the host, changes them.
const NOT_KEPT: InstructionResult = InstructionResult::Digest(1);

fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels in one read-only section of this program, in this order, and what lies
    // between them never changes.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

fn driver() -> &'static [u8] {
    between(&raw const ftvm_table, &raw const ftvm_table_end)
}

fn forms() -> &'static [u8] {
    between(&raw const ftvm_forms, &raw const ftvm_forms_end)
}

/// Where a label of the driver is in the guest.
fn in_guest(label: *const u8) -> u64 {
    KERNEL + between(&raw const ftvm_table, label).len() as u64
}

pub(super) fn instructions(guest: &mut MicroGuest, _: Effort) -> Measured {
    let pointers_kept = x87::are_kept(guest)?;
    let results = run(guest, pointers_kept)?;
    let again = run(guest, pointers_kept)?;
    if let Some(n) = (0..TABLE.len()).find(|&n| results[n] != again[n]) {
        return Err(format!("{} gives another result each time", TABLE[n].name));
    }
    let undefined = |result: &&InstructionResult| **result == InstructionResult::Undefined;
    let unknown = results.iter().filter(undefined).count();
    let names = TABLE.iter().map(|instruction| instruction.name);
    let results = InstructionResults::new(names.zip(results));
    // So that people can compare two hosts as well.
    Ok(Finding::from(format!(
        "{} of {} known, digest {:08x}",
        TABLE.len() - unknown,
        TABLE.len(),
        results.digest()
    ))
    .with_instructions(results))
}

/// What each instruction of the table came to.
fn run(guest: &mut MicroGuest, pointers_kept: bool) -> Result<Vec<InstructionResult>, String> {
    let program = Program {
        kernel: driver(),
        ..Program::default()
    };
    load(guest, &program)?;
    let mut undefined = vec![false; write_plan(guest)];
    let resume = in_guest(&raw const ftvm_table_resume);
    let next = in_guest(&raw const ftvm_table_next);
    loop {
        match guest.run().map_err(failed)? {
            Event::Exit(Exit::Io(access)) if access.port == 0x10 => break,
            Event::Vector { vector, rip, .. } if rip >= FORMS => {
                let mut registers = registers(guest)?;
                if vector == UNDEFINED_OPCODE {
                    let entry = registers.gpr[R10].wrapping_sub(PLAN) / PLAN_ENTRY;
                    undefined[entry as usize] = true;
                    registers.rip = next;
                } else {
                    guest.write_word(EXCEPTION, u64::from(vector) + 1);
                    registers.rip = resume;
                }
                registers.gpr[RSP] = registers.gpr[RBP];
                registers.rflags = RFLAGS;
                guest
                    .cpu()
                    .set_registers(&registers)
                    .map_err(|e| with_causes(&e))?;
            }
            other => return Err(format!("{} in place of a result", describe(other))),
        }
    }
    let mut entries = (0..).zip(undefined);
    let results = TABLE.iter().map(|instruction| {
        let forms: Vec<(u64, bool)> = entries.by_ref().take(instruction.forms.len()).collect();
        if instruction.compared == ResultMask::Pointers && !pointers_kept {
            return NOT_KEPT;
        }
        if forms.iter().all(|(_, undefined)| *undefined) {
            return InstructionResult::Undefined;
        }
        let digests: Vec<u8> = forms
            .iter()
            .flat_map(|(n, _)| {
                let digest = guest.read_word(PLAN + n * PLAN_ENTRY + PLAN_DIGEST);
                digest.to_le_bytes()
            })
            .collect();
        InstructionResult::Digest(xxh64(&digests, 0) as u32)
    });
    Ok(results.collect())
}

/// With no flag set.
const RFLAGS: u64 = 2;
const RSP: usize = 6;
const R10: usize = 10;

/// Writes all that the driver needs. Returns the number of entries of the plan: one for each form.
fn write_plan(guest: &MicroGuest) -> usize {
    let write = |address, bytes: &[u8]| {
        guest
            .memory()
            .write_slice(bytes, GuestAddress(address))
            .expect("all of it lies in the first 2 MiB");
    };
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    write(FORMS, forms());
    guest.write_word(EXCEPTION, 0);
    write(BLANK_IMAGE, &[0; 512]);
    for (offset, word) in BLANK {
        guest.write_word(BLANK_IMAGE + offset as u64, word);
    }
    for (n, compared) in (0..).zip(ResultMask::ALL) {
        write(MASKS + n * MASK_BYTES, &words(&compared.mask()));
    }
    let mut at = OPERANDS;
    let sets = Operands::ALL.map(|operands| {
        let sets = operands.sets();
        let (first, number) = (at, sets.len() as u64);
        write(first, &words(&sets.concat()));
        at += number * SET_BYTES;
        (operands, first, number)
    });
    let mut plan = Vec::new();
    for Instruction {
        operands,
        compared,
        forms,
        ..
    } in TABLE
    {
        let (_, first, number) = (sets.iter().find(|(which, ..)| which == operands))
            .expect("every kind of operands has sets");
        let mask = (ResultMask::ALL.iter().position(|which| which == compared))
            .expect("every kind of comparison has a mask");
        for _ in *forms {
            let form = (plan.len() / PLAN_WORDS) * FORM_BYTES;
            let mask = MASKS + mask as u64 * MASK_BYTES;
            plan.extend([FORMS + form as u64, *first, *number, mask, 0]);
        }
    }
    let entries = plan.len() / PLAN_WORDS;
    plan.push(0); // its end
    write(PLAN, &words(&plan));
    entries
}

const MASK_BYTES: u64 = 8 * RECORD_WORDS as u64;
const PLAN_WORDS: usize = PLAN_ENTRY as usize / 8;

#[cfg(test)]
mod tests {
    use logging_channel::MAX_INSTRUCTIONS;
    use logging_channel::codec::PROTOCOL_VERSION;

    use super::*;

    #[test]
    fn everything_fits_its_place() {
        assert!(driver().len() < 0x1000);
        let number: usize = TABLE.iter().map(|i| i.forms.len()).sum();
        assert_eq!(forms().len(), number * FORM_BYTES, "a form is too long");
        assert!(PLAN + PLAN_ENTRY * (number as u64 + 1) <= FORMS);
        assert!(FORMS + forms().len() as u64 <= OPERANDS);
        assert!(MASKS + MASK_BYTES * ResultMask::ALL.len() as u64 <= PLAN);
        let sets: usize = Operands::ALL.iter().map(|o| o.sets().len()).sum();
        assert!(OPERANDS + SET_BYTES * (sets as u64) < 0x20_0000);
        assert!(TABLE.len() <= MAX_INSTRUCTIONS);
    }

    /// Hosts compare their results without the names: a version has one table, and with the version before it goes
    /// that one's.
    #[test]
    fn another_table_is_another_version_of_the_protocol() {
        let mut all = format!("{TABLE:?}").into_bytes();
        for operands in Operands::ALL {
            all.extend(format!("{:?}", operands.sets()).bytes());
        }
        for compared in ResultMask::ALL {
            all.extend(format!("{:?}", compared.mask()).bytes());
        }
        let code = include_str!("driver.S").lines();
        let code = code.map(|line| line.split("//").next().unwrap_or_default().trim());
        all.extend(code.flat_map(str::bytes));
        let pinned = (13, 0x0cb6_8175_b67a_25bc);
        assert_eq!(
            (PROTOCOL_VERSION, xxh64(&all, 0)),
            pinned,
            "{:#x}",
            xxh64(&all, 0)
        );
    }
}
