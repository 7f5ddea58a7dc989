//! Stops at the first instruction of every exception and interrupt handler.
//!
//! The processor clears RFLAGS.TF when it delivers an event, so a single step that ends in one
//! runs on into the handler. An [`OutStop`] at the handler makes it exit there. The true byte is
//! back whenever the guest executes it, and whenever the VMM may look.

use std::collections::BTreeMap;

use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

use super::decode::LONGEST;
use crate::cpu::GuestCpu;
use crate::kvm::KvmCpu;
use crate::kvm::out_stop::OutStop;
use crate::ram::{GuestRam, PAGE};

/// Bytes of a gate in 64-bit mode (Intel SDM volume 3, figure 7-8).
const GATE: usize = 16;

/// Where a table is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Location {
    base: u64,
    limit: u16,
    cr3: u64,
}

/// The handlers of the guest's interrupt descriptor table, by linear address.
#[derive(Debug, Default)]
pub(super) struct Entrances {
    location: Location,
    /// The table's parts in guest-physical memory: address and length. A guest that moves its
    /// table to other memory writes CR3 as well.
    parts: Vec<(GuestAddress, usize)>,
    /// The table as it was when the handlers were taken from it.
    table: Vec<u8>,
    handlers: BTreeMap<u64, OutStop>,
}

impl Entrances {
    /// Puts a stop at every handler but those that overlap the instruction at `rip`, which is
    /// about to be executed.
    pub(super) fn close(&mut self, cpu: &mut KvmCpu, sregs: &kvm_sregs, rip: u64) {
        self.follow_table(cpu, sregs);
        let memory = cpu.memory();
        for (&linear, stop) in &mut self.handlers {
            if linear.wrapping_sub(rip) < LONGEST as u64 {
                stop.lift(memory);
            } else {
                stop.set(memory);
            }
        }
    }

    /// Gives all handlers their own byte back.
    pub(super) fn open(&mut self, memory: &GuestRam) {
        for stop in self.handlers.values_mut() {
            stop.lift(memory);
        }
    }

    /// Whether there is a stop at `rip`.
    pub(super) fn is_closed(&self, rip: u64) -> bool {
        self.handlers.get(&rip).is_some_and(OutStop::is_set)
    }

    /// Takes the handlers anew if the table is another one, or was changed.
    fn follow_table(&mut self, cpu: &mut KvmCpu, sregs: &kvm_sregs) {
        let location = Location {
            base: sregs.idt.base,
            limit: sregs.idt.limit,
            cr3: sregs.cr3,
        };
        if location != self.location || self.parts.is_empty() {
            self.parts = parts(cpu, location.base, table_bytes(location.limit));
        }
        let table = read_parts(cpu.memory(), &self.parts);
        if location == self.location && table == self.table {
            return;
        }
        self.open(cpu.memory());
        self.handlers = table
            .chunks_exact(GATE)
            .filter_map(handler)
            .filter_map(|linear| Some((linear, OutStop::at(cpu.translate(linear)?))))
            .collect();
        (self.location, self.table) = (location, table);
    }
}

fn table_bytes(limit: u16) -> usize {
    (usize::from(limit) + 1).min(256 * GATE)
}

/// Where a gate leads, if it is an interrupt or trap gate that is present.
fn handler(gate: &[u8]) -> Option<u64> {
    let present = gate[5] & 0x80 != 0 && matches!(gate[5] & 0x1f, 0xe | 0xf);
    let bytes = [
        gate[0], gate[1], gate[6], gate[7], gate[8], gate[9], gate[10], gate[11],
    ];
    present.then(|| u64::from_le_bytes(bytes))
}

/// Up to `len` bytes from `linear` on; fewer where a page is not mapped.
pub(super) fn read(cpu: &mut KvmCpu, linear: u64, len: usize) -> Vec<u8> {
    let parts = parts(cpu, linear, len);
    read_parts(cpu.memory(), &parts)
}

/// Where `len` bytes from `linear` on are, as far as they are mapped.
fn parts(cpu: &mut KvmCpu, linear: u64, len: usize) -> Vec<(GuestAddress, usize)> {
    let mut parts = Vec::new();
    let mut done = 0;
    while done < len {
        let at = linear.wrapping_add(done as u64);
        let Some(physical) = cpu.translate(at) else {
            break;
        };
        let part = (len - done).min(PAGE - at as usize % PAGE);
        parts.push((GuestAddress(physical), part));
        done += part;
    }
    parts
}

fn read_parts(memory: &GuestRam, parts: &[(GuestAddress, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(address, len) in parts {
        let start = bytes.len();
        bytes.resize(start + len, 0);
        if memory.read_slice(&mut bytes[start..], address).is_err() {
            bytes.truncate(start);
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_decoded() {
        let mut gate = [
            0x34, 0x12, 8, 0, 0, 0x8e, 0x78, 0x56, 0x9a, 0xbc, 0xde, 0xf0, 0, 0, 0, 0,
        ];
        assert_eq!(handler(&gate), Some(0xf0de_bc9a_5678_1234));
        gate[5] = 0x0e;
        assert_eq!(handler(&gate), None, "not present");
        gate[5] = 0xef;
        assert!(handler(&gate).is_some(), "a trap gate for user mode");
    }
}
