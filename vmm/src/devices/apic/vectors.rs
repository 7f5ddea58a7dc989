//! A set of interrupt vectors: the 256-bit registers of the APIC.

use serde::{Deserialize, Serialize};

/// A set of vectors. A higher vector has the higher priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    /// Whether the first 16 are not among them: those are the processor's own exceptions.
    pub(super) fn are_interrupts(&self) -> bool {
        self.0[0] & 0xffff == 0
    }

    /// Whether no two are of the same priority class, which is 16 vectors.
    pub(super) fn are_of_different_classes(&self) -> bool {
        let classes = self.0.iter().flat_map(|word| [word & 0xffff, word >> 16]);
        classes.into_iter().all(|class| class.count_ones() <= 1)
    }

    /// 32 vectors from `32 * n` on, a bit each.
    pub(super) fn word(&self, n: u32) -> u32 {
        self.0[n as usize]
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let n = self.0.iter().rposition(|word| *word != 0)?;
        Some((n as u8) << 5 | self.0[n].ilog2() as u8)
    }

    /// The highest but one.
    pub(super) fn below_highest(mut self) -> Option<u8> {
        self.remove_highest();
        self.highest()
    }

    pub(super) fn remove_highest(&mut self) {
        if let Some(vector) = self.highest() {
            self.remove(vector);
        }
    }
}
