//! A copy of the time stamp counter in guest memory, from which the kernel reads most of the time.
//!
//! A read of the counter is an exit. The kernel reads it far more often than it needs a new value:
//! at every switch between processes, for every packet and at every system call. So
//! `rewrite::cached_reads` makes it read this copy, which the VMM keeps:
//!
//! - Whenever the guest gets a time that is in the log, a clock value or a tick, the copy becomes
//!   that time ([`TscCache::refresh`]). This happens at deterministic exits and depends on the log
//!   only, so a replay does the same.
//! - Each time allows a number of reads. When they are used up, the next read is an exit, as all
//!   would be without the copy. So a kernel that waits for time to pass sees it pass.
//!
//! The copy is never ahead of what the guest was told last, and what it is told next is not below
//! that: reads of the copy, reads that exit and those of programs ([`crate::traps`]) are in order.
//!
//! ```text
//!  0 value u64: the counter, in nanoseconds of guest time
//!  8 clock reads u32: what is left for reads that want a time
//! 12 samples u32: what is left for reads that want an unforeseeable number
//! ```

use vm_memory::{Bytes, GuestAddress};

use crate::ram::GuestRam;

/// Bytes of the copy and its allowances.
pub const BYTES: usize = 16;
/// Where the value is.
pub const VALUE: u64 = 0;
/// Where the allowance of clock reads is.
pub const CLOCK_READS: u64 = 8;
/// Where the allowance of samples is.
pub const SAMPLES: u64 = 12;

/// Reads of a time without an exit, behind each time that the guest gets. More save little: what is
/// left is an exit for so many reads. They bound how long a loop that polls the clock goes without
/// noticing that time passes, and how long a guest in such a loop makes no exit.
const CLOCK_READS_ALLOWED: u32 = 64;

/// The same for samples. Linux gathers randomness from differences between successive reads, and
/// gives up if fewer than one in HZ/15 differs (`drivers/char/random.c`,
/// `try_to_generate_entropy`): one in 6 with a HZ of 100.
const SAMPLES_ALLOWED: u32 = 4;

/// Keeps the copy, where the kernel has one.
pub struct TscCache {
    memory: GuestRam,
    at: Option<GuestAddress>,
}

impl TscCache {
    /// For a kernel that reads the copy at this guest-physical address, or nowhere.
    #[must_use]
    pub fn new(memory: GuestRam, at: Option<u64>) -> Self {
        Self {
            memory,
            at: at.map(GuestAddress),
        }
    }

    /// Whether the kernel reads a copy.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.at.is_some()
    }

    /// The guest has got the time `now`, in nanoseconds, from the log.
    pub fn refresh(&self, now: u64) {
        let Some(at) = self.at else { return };
        let mut copy = [0; BYTES];
        copy[VALUE as usize..][..8].copy_from_slice(&now.to_le_bytes());
        copy[CLOCK_READS as usize..][..4].copy_from_slice(&CLOCK_READS_ALLOWED.to_le_bytes());
        copy[SAMPLES as usize..][..4].copy_from_slice(&SAMPLES_ALLOWED.to_le_bytes());
        // It lies in the kernel's image, which was loaded: the address is in memory.
        let _ = self.memory.write_slice(&copy, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram;

    #[test]
    fn a_time_replaces_what_is_left_of_the_last() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x4000)]).expect("memory");
        let cache = TscCache::new(memory.clone(), Some(0x2fc0));
        cache.refresh(5);
        let at = |offset| GuestAddress(0x2fc0 + offset);
        memory.write_obj(0u32, at(CLOCK_READS)).expect("in memory");
        memory.write_obj(1u32, at(SAMPLES)).expect("in memory");
        let _ = ram::take_written(&memory);
        cache.refresh(0x1_0000_0007);
        let value: u64 = memory.read_obj(at(VALUE)).expect("in memory");
        let reads: u32 = memory.read_obj(at(CLOCK_READS)).expect("in memory");
        let samples: u32 = memory.read_obj(at(SAMPLES)).expect("in memory");
        let expected = (0x1_0000_0007, CLOCK_READS_ALLOWED, SAMPLES_ALLOWED);
        assert_eq!((value, reads, samples), expected);
        assert_eq!(ram::take_written(&memory), [2], "seen by state deltas");
    }

    #[test]
    fn a_kernel_without_a_copy_is_left_alone() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory");
        let cache = TscCache::new(memory.clone(), None);
        assert!(!cache.is_read());
        cache.refresh(5);
        assert!(ram::take_written(&memory).is_empty());
    }

    #[test]
    fn linux_finds_enough_differences_between_samples() {
        // As `try_to_generate_entropy` counts them.
        const TRIAL_SAMPLES: u32 = 8192;
        const SMALLEST_HZ: u32 = 100;
        let different = TRIAL_SAMPLES / (SAMPLES_ALLOWED + 1);
        let samples_per_bit = TRIAL_SAMPLES.div_ceil(different + 1);
        assert!(samples_per_bit <= SMALLEST_HZ / 15);
    }
}
