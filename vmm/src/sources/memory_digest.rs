//! Hashes of guest memory, page by page.

use logging_channel::entry;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::ram::{GuestRam, PAGE};

/// Number of pages of guest memory.
pub(super) fn pages(memory: &GuestRam) -> u64 {
    (memory.last_addr().0 + 1) / PAGE as u64
}

/// Hash of page `number`.
pub(super) fn page_hash(memory: &GuestRam, number: u64) -> u64 {
    let mut page = [0; PAGE];
    memory
        .read_slice(&mut page, GuestAddress(number * PAGE as u64))
        .expect("the page lies in guest memory");
    entry::page_hash(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 2 * PAGE)]).unwrap();
        assert_eq!(pages(&memory), 2);
        let empty = page_hash(&memory, 1);
        for bit in (0..PAGE * 8).step_by(1013) {
            let at = GuestAddress((PAGE + bit / 8) as u64);
            memory.write_obj(1u8 << (bit % 8), at).unwrap();
            assert_ne!(page_hash(&memory, 1), empty);
            memory.write_obj(0u8, at).unwrap();
        }
        assert_eq!(page_hash(&memory, 1), empty);
    }
}
