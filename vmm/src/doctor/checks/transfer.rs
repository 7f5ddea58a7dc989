//! State taken from one guest and given to another: pages that were written, and the processor.

use std::time::Instant;

use super::super::report::{Finding, with_causes};
use super::measure::{
    Effort, Measured, PATIENCE, RCX, load_kernel, look_at_writes, microseconds, registers, run_to,
};
use super::stops::stop_computing;
use crate::cpu::{CpuState, Registers};
use crate::kvm::probe::{DATA, KERNEL, MicroGuest, SECOND_DIRECTORY_ENTRY, TABLE_PAGES};
use crate::ram::PAGE;

/// Pages that the guest writes first, and those that it writes later. The first of all is written
/// both times.
const FIRST: [u64; 3] = [0x20, 0x45, 0x1ff];
const LATER: [u64; 2] = [0x20, 0x80];
/// Pages that are written to see what a first write costs.
const MANY: u64 = 256;

pub(super) fn dirty_logging(guest: &mut MicroGuest, effort: Effort) -> Measured {
    let mut kernel = Vec::new();
    for pages in [&FIRST[..], &LATER[..]] {
        for page in pages {
            kernel.extend_from_slice(&[0xc6, 0x04, 0x25]); // mov byte [page], 1
            kernel.extend_from_slice(&((page * PAGE as u64) as u32).to_le_bytes());
            kernel.push(1);
        }
        kernel.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    }
    load_kernel(guest, &kernel)?;
    let cpu = guest.cpu();
    cpu.track_writes().map_err(|e| with_causes(&e))?;
    // The log begins empty or full, as the kernel likes.
    written(guest)?;
    for pages in [&FIRST[..], &LATER[..]] {
        run_to(guest, 0x10)?;
        let named = written(guest)?;
        if named != pages {
            return Err(format!(
                "pages {pages:x?} were written, {named:x?} are named"
            ));
        }
    }
    if !written(guest)?.is_empty() {
        return Err("a page is named that was not written again".into());
    }
    let mut finding = Finding::from("names the pages written since it was read, and no other");
    if effort == Effort::All {
        let (read_us, first_write_us) = logging_cost(guest)?;
        finding = finding
            .with("log_read_us", read_us)
            .with("first_write_us", first_write_us);
    }
    Ok(finding)
}

/// Numbers of the pages that the program wrote since the last call. Page tables are left out: some
/// processors count walking them as a write. So is the program itself: where the host took a page out
/// of KVM's tables, KVM may map it writable when it is read, and names it then.
fn written(guest: &mut MicroGuest) -> Result<Vec<u64>, String> {
    const PROGRAM: u64 = KERNEL >> 12;
    let pages = look_at_writes(guest)?;
    let others = pages.iter().filter(|p| !TABLE_PAGES.contains(p));
    Ok(others.filter(|p| *p != PROGRAM).collect())
}

/// Microseconds that reading the log takes, and that the first write to a page takes longer than
/// the next.
fn logging_cost(guest: &mut MicroGuest) -> Result<(f64, f64), String> {
    let kernel = [
        0xbf, 0, 0, 0x08, 0, // again: mov edi, 0x80000
        0xb9, 0, 0x01, 0, 0, // mov ecx, MANY
        0x88, 0x07, // next: mov [rdi], al
        0x81, 0xc7, 0, 0x10, 0, 0, // add edi, PAGE
        0xff, 0xc9, // dec ecx
        0x75, 0xf4, // jnz next
        0xe6, 0x10, // out 0x10, al
        0xeb, 0xe6, // jmp again
    ];
    load_kernel(guest, &kernel)?;
    let pass = |guest: &mut MicroGuest| -> Result<f64, String> {
        let started = Instant::now();
        run_to(guest, 0x10)?;
        Ok(microseconds(started))
    };
    // So that the pages are there at all.
    pass(guest)?;
    let started = Instant::now();
    let named = written(guest)?.len() as u64;
    let read_us = microseconds(started);
    if named < MANY {
        return Err(format!("{MANY} pages were written, {named} are named"));
    }
    let (fresh, again) = (pass(guest)?, pass(guest)?);
    Ok((read_us, (fresh - again).max(0.0) / MANY as f64))
}

/// Where the program of [`state_transfer`] is told to come to its end.
const END: u64 = DATA + 0x20;
/// Where it leaves its x87 result.
const RESULT: u64 = DATA + 0x30;

pub(super) fn state_transfer(guest: &mut MicroGuest, effort: Effort) -> Measured {
    // Sums square roots with SSE and multiples of pi with x87, without an exit, until it is told
    // to end; then it goes on for 1,000 rounds.
    let kernel = [
        0xbf, 0x00, 0x30, 0x01, 0, // mov edi, DATA
        0xbd, 0xe8, 0x03, 0, 0, // mov ebp, 1000
        0x31, 0xc9, // xor ecx, ecx
        0x66, 0x0f, 0xef, 0xd2, // pxor xmm2, xmm2
        0xdb, 0xe3, // fninit
        0xd9, 0xeb, // fldpi
        0xd9, 0xee, // fldz
        0xff, 0xc1, // again: inc ecx
        0xf2, 0x0f, 0x2a, 0xc1, // cvtsi2sd xmm0, ecx
        0xf2, 0x0f, 0x51, 0xc8, // sqrtsd xmm1, xmm0
        0xf2, 0x0f, 0x58, 0xd1, // addsd xmm2, xmm1
        0xd8, 0xc1, // fadd st0, st1
        0x66, 0x0f, 0xd6, 0x57, 0x08, // movq [rdi+8], xmm2
        0x48, 0x83, 0x7f, 0x20, 0x00, // cmp qword [rdi+0x20], 0
        0x74, 0xe4, // je again
        0xff, 0xcd, // dec ebp
        0x75, 0xe0, // jnz again
        0xdb, 0x7f, 0x30, // fstp tbyte [rdi+0x30]
        0xe6, 0x10, // out 0x10, al
    ];
    load_kernel(guest, &kernel)?;
    let stopped = stop_in_the_middle(guest)?;
    let started = Instant::now();
    let state = guest.cpu().save().map_err(|e| with_causes(&e))?;
    let save_us = microseconds(started);
    let memory = guest.memory_image();
    let end = finish(guest)?;

    // A second machine takes as long to make as all else here: before every start, the guest gets
    // its own state back, after it has run on.
    let (load_us, other_end) = if effort == Effort::All {
        let mut other = MicroGuest::new(PATIENCE).map_err(|e| with_causes(&e))?;
        go_on(&mut other, &state, &memory)?
    } else {
        go_on(guest, &state, &memory)?
    };
    if let Some(difference) = end.difference(&other_end) {
        return Err(format!(
            "after a stop in round {stopped}, {difference} differs at the end"
        ));
    }
    take_page_tables_over(guest)?;
    let mut finding = Finding::from("a guest stopped anywhere goes on alike, SSE and x87 included");
    if effort == Effort::All {
        finding = finding.with("save_us", save_us).with("load_us", load_us);
    }
    Ok(finding)
}

/// Changes page tables of the guest behind its back, as where a state is taken over, and has it read
/// through them.
fn take_page_tables_over(guest: &mut MicroGuest) -> Result<(), String> {
    // A table of its own, and two pages, all of which the guest only reads.
    const SECOND_TABLE: u64 = 0x8_0000;
    const MAPPED: u64 = 0b111; // for all, writable
    const WORDS: [(u64, u64); 2] = [(0x9_0000, 1), (0x9_1000, 2)];
    let kernel = [
        0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, // again: mov rax, [0x200000]
        0xe6, 0x10, // out 0x10, al
        0xeb, 0xf4, // jmp again
    ];
    load_kernel(guest, &kernel)?;
    guest.write_word(SECOND_DIRECTORY_ENTRY, SECOND_TABLE | MAPPED);
    for (page, word) in WORDS {
        guest.write_word(page, word);
        guest.write_word(SECOND_TABLE, page | MAPPED);
        let cpu = guest.cpu();
        cpu.complete_access().map_err(|e| with_causes(&e))?;
        cpu.drop_translations().map_err(|e| with_causes(&e))?;
        let read = run_to(guest, 0x10)?.gpr[0];
        if read != word {
            return Err(format!(
                "the guest reads word {read} where the page tables that were changed lead to word \
                 {word}: KVM keeps what it had of them"
            ));
        }
    }
    guest.write_word(SECOND_DIRECTORY_ENTRY, 0);
    Ok(())
}

/// Goes on from a saved state. Returns the microseconds that loading took, and the end.
fn go_on(guest: &mut MicroGuest, state: &[u8], memory: &[u8]) -> Result<(f64, End), String> {
    guest.set_memory(memory);
    let cpu = guest.cpu();
    cpu.complete_access().map_err(|e| with_causes(&e))?;
    let started = Instant::now();
    cpu.load(state).map_err(|e| with_causes(&e))?;
    let load_us = microseconds(started);
    Ok((load_us, finish(guest)?))
}

/// Stops the program in its loop, with nothing under way. Returns the round.
fn stop_in_the_middle(guest: &mut MicroGuest) -> Result<u64, String> {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        stop_computing(guest)?;
        let round = registers(guest)?.gpr[RCX];
        // On a busy host the stop may come before the guest runs at all.
        if round > 0 && guest.cpu().at_rest().map_err(|e| with_causes(&e))? {
            return Ok(round);
        }
    }
    Err(format!(
        "no place between two instructions in {TRIES} stops"
    ))
}

/// What the program comes to.
struct End {
    registers: Registers,
    /// Digests of the processor's other parts.
    parts: Vec<(&'static str, u32)>,
    memory: Vec<u8>,
}

impl End {
    /// What differs first.
    fn difference(&self, other: &Self) -> Option<String> {
        if self.registers != other.registers {
            return Some("a general register".into());
        }
        let mut parts = self.parts.iter().zip(&other.parts);
        if let Some(((name, _), _)) = parts.find(|(one, other)| one != other) {
            return Some((*name).into());
        }
        let mut pages = self.memory.chunks(PAGE).zip(other.memory.chunks(PAGE));
        let page = pages.position(|(one, other)| one != other)?;
        Some(format!("page {page:#x}"))
    }
}

fn finish(guest: &mut MicroGuest) -> Result<End, String> {
    guest.write_word(END, 1);
    let registers = run_to(guest, 0x10)?;
    if guest.read_word(RESULT) == 0 {
        return Err("the program computed nothing".into());
    }
    Ok(End {
        registers,
        parts: guest.cpu().part_digests().map_err(|e| with_causes(&e))?,
        memory: guest.memory_image(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let end = || End {
            registers: Registers::default(),
            parts: vec![("FPU", 1), ("debug registers", 2)],
            memory: vec![0; 3 * PAGE],
        };
        assert_eq!(end().difference(&end()), None);
        let mut other = end();
        other.memory[2 * PAGE + 1] = 1;
        assert_eq!(end().difference(&other).as_deref(), Some("page 0x2"));
        other.parts[0].1 = 9;
        assert_eq!(end().difference(&other).as_deref(), Some("FPU"));
        other.registers.rip = 1;
        let named = end().difference(&other);
        assert_eq!(named.as_deref(), Some("a general register"));
    }
}
