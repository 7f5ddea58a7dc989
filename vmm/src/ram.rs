//! Guest memory whose pages written by the VMM are tracked.
//!
//! The guest's own writes go through KVM's mapping and are not seen here: KVM's dirty log knows
//! of them. What the loader, the devices and the patched instructions' emulation write goes
//! through [`vm_memory::Bytes`], [`vm_memory::VolatileSlice`] or virtio-queue, which mark the
//! pages in the region's bitmap. A host address of guest memory would bypass both, so clippy
//! refuses `get_host_address` in this crate but where KVM is told of the mapping.

use std::ops::Deref;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Guest memory whose pages written by the VMM are tracked.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// Size of a page in bytes.
const PAGE: u64 = 4096;

/// Numbers of the pages that the VMM wrote since the last call, in ascending order.
#[must_use]
pub fn take_written(memory: &GuestRam) -> Vec<u64> {
    let mut written = Vec::new();
    for region in memory.iter() {
        let first = region.start_addr().0 / PAGE;
        let words = region.deref().bitmap().get_and_reset();
        for (n, word) in (0..).zip(words) {
            let marked = (0..64).filter(|bit| word >> bit & 1 != 0);
            written.extend(marked.map(|bit| first + 64 * n + bit));
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use vm_memory::{Address, Bytes, GuestAddress};

    use super::*;

    const PAGES: u64 = 100;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), (PAGES * PAGE) as usize)]).expect("memory")
    }

    #[test]
    fn a_write_marks_its_pages_and_no_other() {
        type Writer = fn(&GuestRam, GuestAddress);
        let writers: [(&str, Writer, &[u64]); 5] = [
            ("object", |m, at| m.write_obj(1u8, at).unwrap(), &[70]),
            ("slice", |m, at| m.write_slice(&[1; 9], at).unwrap(), &[70]),
            (
                "slice over a page's end",
                |m, at| m.write_slice(&[1; 9], at.unchecked_add(PAGE - 8)).unwrap(),
                &[70, 71],
            ),
            (
                "atomic",
                |m, at| {
                    m.store(1u16, at, std::sync::atomic::Ordering::Relaxed)
                        .unwrap()
                },
                &[70],
            ),
            (
                "from a file, as the loader does",
                |m, at| {
                    let mut file = Cursor::new([1; 9]);
                    m.read_exact_volatile_from(at, &mut file, 9).unwrap();
                },
                &[70],
            ),
        ];
        for (what, write, expected) in writers {
            let memory = memory();
            assert!(take_written(&memory).is_empty(), "{what}: before");
            write(&memory.clone(), GuestAddress(70 * PAGE));
            assert_eq!(take_written(&memory), expected, "{what}");
            assert!(take_written(&memory).is_empty(), "{what}: taken twice");
        }
    }

    #[test]
    fn reading_marks_nothing() {
        let memory = memory();
        memory.read_obj::<u64>(GuestAddress(PAGE)).unwrap();
        memory.read_slice(&mut [0; 9], GuestAddress(0)).unwrap();
        assert!(take_written(&memory).is_empty());
    }
}
