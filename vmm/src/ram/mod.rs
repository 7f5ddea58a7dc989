//! Guest memory whose pages written by the VMM are tracked.
//!
//! The guest's own writes go through KVM's mapping and are not seen here: KVM's dirty log knows
//! of them. What the loader, the devices and the patched instructions' emulation write goes
//! through [`vm_memory::Bytes`], [`vm_memory::VolatileSlice`] or virtio-queue, which mark the
//! pages in the region's bitmap. A host address of guest memory would bypass both, so clippy
//! refuses `get_host_address` in this crate but where KVM is told of the mapping.

mod heat;
mod pages;
mod pinned;
mod room;

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

pub(crate) use self::heat::Heat;
pub use self::pages::PageSet;
pub(crate) use self::pages::bits;
pub use self::pinned::{Loose, NotEnough, lock_limit, pin, resident_bytes};
pub(crate) use self::room::Room;

/// Guest memory whose pages written by the VMM are tracked.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

/// Size of a huge page in bytes.
const HUGE_PAGE: usize = 2 << 20;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The system has none to give.
    #[error("the system refuses it")]
    Mapping(#[source] io::Error),
    /// It is no memory that a guest could have.
    #[error("{0}")]
    Size(String),
}

/// Memory of `bytes` bytes from guest-physical address 0, in huge pages as far as the system gives
/// them: KVM maps one as one only if it begins at a multiple of its size on both sides. It stays
/// mapped until the process ends.
///
/// # Errors
/// [`RamError`].
pub fn allocate(bytes: u64) -> Result<GuestRam, RamError> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_NORESERVE;
    let impossible = |why: &dyn ToString| RamError::Size(why.to_string());
    let bytes = usize::try_from(bytes).map_err(|e| impossible(&e))?;
    let with_slack = NonZeroUsize::MIN.saturating_add(bytes.saturating_add(HUGE_PAGE - 1));
    // SAFETY: a new private mapping touches nothing that is there.
    let start = unsafe { mmap_anonymous(None, with_slack, protection, flags) };
    let start = start
        .map_err(|error| RamError::Mapping(error.into()))?
        .cast::<u8>();
    let skipped = start.align_offset(HUGE_PAGE);
    // SAFETY: fewer bytes than a huge page are skipped, and the mapping has that many more.
    let aligned = unsafe { start.add(skipped) };
    // SAFETY: the range lies in the mapping made above. A system without huge pages refuses; then
    // they are small.
    let _ = unsafe { madvise(aligned.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
    let builder = MmapRegionBuilder::new_with_bitmap(bytes, AtomicBitmap::with_len(bytes))
        .with_mmap_prot(protection.bits())
        .with_mmap_flags(flags.bits());
    // SAFETY: `bytes` bytes from there belong to the mapping made above, with this protection and
    // these flags; nobody else knows of it, and nobody unmaps it.
    let region = unsafe { builder.with_raw_mmap_pointer(aligned.as_ptr()) }
        .build()
        .map_err(|e| impossible(&e))?;
    let region = GuestRegionMmap::new(region, GuestAddress(0))
        .ok_or_else(|| impossible(&"it does not end"))?;
    GuestRam::from_regions(vec![region]).map_err(|e| impossible(&e))
}

/// Number of pages of guest memory.
#[must_use]
pub fn page_count(memory: &GuestRam) -> u64 {
    (memory.last_addr().0 + 1) / PAGE as u64
}

/// What page `number` holds.
///
/// # Panics
/// If guest memory has no such page.
pub(crate) fn page(memory: &GuestRam, number: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    memory
        .read_slice(&mut page, GuestAddress(number * PAGE as u64))
        .expect("the page lies in guest memory");
    page
}

/// Whether page `number` holds nothing but zeros, while the guest may write to it.
///
/// # Panics
/// If guest memory has no such page.
pub(crate) fn is_zero(memory: &GuestRam, number: u64) -> bool {
    type Words = [AtomicU64; PAGE / size_of::<u64>()];
    let slice = memory.get_slice(GuestAddress(number * PAGE as u64), PAGE);
    let guard = slice.expect("the page lies in guest memory").ptr_guard();
    // SAFETY: the slice is as long as a page and aligned as one, and guest memory is mapped as long as
    // `memory` is. Others may write to it, as they may to atomic numbers.
    let words: &Words = unsafe { &*guard.as_ptr().cast() };
    let bits = |some: &[AtomicU64]| {
        some.iter()
            .fold(0, |bits, word| bits | word.load(Ordering::Relaxed))
    };
    words.chunks(16).all(|some| bits(some) == 0)
}

/// Numbers of the pages that the VMM wrote since the last call, in ascending order.
#[must_use]
pub fn take_written(memory: &GuestRam) -> Vec<u64> {
    let mut written = Vec::new();
    for region in memory.iter() {
        let first = region.start_addr().0 / PAGE as u64;
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

    use vm_memory::Address;

    use super::*;

    const PAGES: u64 = 100;
    const PAGE: u64 = super::PAGE as u64;

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
    fn allocated_memory_is_empty_aligned_and_tracked() {
        let bytes = 3 * HUGE_PAGE as u64;
        let memory = allocate(bytes).expect("six megabytes");
        #[expect(clippy::disallowed_methods, reason = "only looked at")]
        let host = memory.get_host_address(GuestAddress(0)).expect("memory");
        assert_eq!(host as usize % HUGE_PAGE, 0);
        assert_eq!(memory.last_addr().0 + 1, bytes);
        let last = GuestAddress(bytes - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        memory.write_obj(7u64, last).unwrap();
        assert_eq!(take_written(&memory), [bytes / PAGE - 1]);
    }

    #[test]
    fn memory_that_cannot_be_is_refused() {
        assert!(matches!(allocate(1 << 60), Err(RamError::Mapping(_))));
    }

    #[test]
    fn a_page_is_zero_if_every_byte_is() {
        let memory = memory();
        for at in [0, 7, 127, 128, 2049, PAGE - 1] {
            assert!(is_zero(&memory, 70));
            memory.write_obj(1u8, GuestAddress(70 * PAGE + at)).unwrap();
            assert!(!is_zero(&memory, 70), "byte {at}");
            memory.write_obj(0u8, GuestAddress(70 * PAGE + at)).unwrap();
        }
        memory
            .write_slice(&[1], GuestAddress(69 * PAGE + PAGE - 1))
            .unwrap();
        memory.write_slice(&[1], GuestAddress(71 * PAGE)).unwrap();
        assert!(is_zero(&memory, 70), "what is beside it is not");
    }

    #[test]
    fn reading_marks_nothing() {
        let memory = memory();
        assert!(is_zero(&memory, 1));
        memory.read_obj::<u64>(GuestAddress(PAGE)).unwrap();
        memory.read_slice(&mut [0; 9], GuestAddress(0)).unwrap();
        assert!(take_written(&memory).is_empty());
    }
}
