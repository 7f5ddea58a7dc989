//! What the guest's random numbers begin with.
//!
//! A guest has no instruction for random numbers, and Linux would make them of the time that its
//! interrupts take, in a busy loop of some seconds. So it is given a seed, as by every boot loader: an
//! entry of the list `setup_data` of its boot parameters (Linux, `Documentation/arch/x86/boot.rst`),
//! which Linux zeroes when it has it. It is credited where the kernel was built to trust its boot
//! loader (CONFIG_RANDOM_TRUST_BOOTLOADER, `random.trust_bootloader`).
//!
//! ```text
//!   offset  size  field
//!        0     8  the next entry's address: 0, there is none
//!        8     4  type 9, SETUP_RNG_SEED
//!       12     4  length of the seed
//!       16    32  the seed
//! ```

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::RNG_SEED;
use crate::ram::GuestRam;

const SETUP_RNG_SEED: u32 = 9;

/// Puts a seed into the memory of a guest that has not run yet. Without it, the entry is one of type
/// 0, which means nothing.
///
/// # Errors
/// When the guest's memory ends before.
pub fn plant(memory: &GuestRam, seed: &[u8; 32]) -> Result<(), GuestMemoryError> {
    let mut entry = [0; 16 + 32];
    entry[8..12].copy_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    entry[12..16].copy_from_slice(&(seed.len() as u32).to_le_bytes());
    entry[16..].copy_from_slice(seed);
    memory.write_slice(&entry, GuestAddress(RNG_SEED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram;

    /// Reads the entry as `parse_setup_data` of Linux does.
    #[test]
    fn linux_finds_the_seed() {
        let memory = ram::allocate(1 << 20).expect("a guest's memory");
        let number = |at: u64| memory.read_obj::<u32>(GuestAddress(RNG_SEED + at));
        assert_eq!(number(8).expect("a type"), 0, "no entry without a seed");

        plant(&memory, &[7; 32]).expect("it has room");
        let next: u64 = memory.read_obj(GuestAddress(RNG_SEED)).expect("an address");
        assert_eq!(next, 0);
        assert_eq!(number(8).expect("a type"), SETUP_RNG_SEED);
        let mut seed = vec![0; number(12).expect("a length") as usize];
        memory
            .read_slice(&mut seed, GuestAddress(RNG_SEED + 16))
            .expect("a seed");
        assert_eq!(seed, [7; 32]);
    }
}
