//! Memory for a copy of guest memory.

use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

use crate::elsewhere::DroppedElsewhere;
use crate::ram::{PAGE, PageSet};

static ZERO: [u8; PAGE] = [0; PAGE];

/// As many pages as guest memory has. They are zero, and take memory once they are written.
pub(super) struct MemoryCopy {
    /// Nobody else knows of this mapping.
    mapping: DroppedElsewhere<MmapRegion>,
    /// Bytes of it before the first page.
    skew: usize,
    pages: u64,
    /// Those that were written. The others are zero, whatever the mapping has there: to make all of
    /// them zero again must not take long.
    written: PageSet,
}

impl MemoryCopy {
    /// Pages to be compared with those that begin at `original`.
    ///
    /// The two lie an odd number of pages apart. With a power of two between them, they would use
    /// the same entries of tables that are indexed by a part of the address, as an emulated
    /// processor's table of translations, and each access would evict what the next one needs:
    /// comparing took ten times as long.
    pub(super) fn beside(original: *const u8, pages: u64) -> Result<Self, MmapRegionError> {
        let mapping: MmapRegion = MmapRegion::new((pages as usize + 1) * PAGE)?;
        let distance = mapping.as_ptr().addr().abs_diff(original.addr()) / PAGE;
        let skew = if distance.is_multiple_of(2) { PAGE } else { 0 };
        Ok(Self {
            mapping: DroppedElsewhere::new(mapping),
            skew,
            pages,
            written: PageSet::empty(pages),
        })
    }

    fn offset(&self, page: u64) -> usize {
        assert!(page < self.pages, "a page of guest memory");
        self.skew + page as usize * PAGE
    }

    pub(super) fn page(&self, page: u64) -> &[u8; PAGE] {
        let offset = self.offset(page);
        if !self.written.contains(page) {
            return &ZERO;
        }
        // SAFETY: the mapping has `pages` pages behind the skew, is readable, and lives as long as
        // `self`; it is written only by `page_mut`, which borrows `self` mutably.
        unsafe { &*self.mapping.as_ptr().add(offset).cast() }
    }

    pub(super) fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE] {
        let was_written = self.written.contains(page);
        let content = self.unread(page);
        if !was_written {
            *content = ZERO;
        }
        content
    }

    pub(super) fn set(&mut self, page: u64, content: &[u8; PAGE]) {
        *self.unread(page) = *content;
    }

    /// The page, to be written by the caller as a whole.
    fn unread(&mut self, page: u64) -> &mut [u8; PAGE] {
        let offset = self.offset(page);
        self.written.insert(page);
        // SAFETY: as in `page`; the mapping is writable, and nobody else knows of it.
        unsafe { &mut *self.mapping.as_ptr().add(offset).cast() }
    }

    /// Makes all pages zero.
    pub(super) fn forget(&mut self) {
        self.written.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_apart_and_hold_what_is_written() {
        let original = vec![0u8; 8 * PAGE];
        let aligned = original.as_ptr().align_offset(PAGE);
        let original = original[aligned..].as_ptr();
        for start in [original, original.wrapping_add(PAGE)] {
            let mut copy = MemoryCopy::beside(start, 4).expect("four pages");
            let distance = copy.page_mut(0).as_ptr().addr().abs_diff(start.addr());
            assert_eq!(distance / PAGE % 2, 1);
            for page in 0..4 {
                assert_eq!(copy.page(page), &[0; PAGE]);
                *copy.page_mut(page) = [page as u8 + 1; PAGE];
            }
            for page in 0..4 {
                assert_eq!(copy.page(page), &[page as u8 + 1; PAGE]);
            }
            copy.forget();
            for page in 0..4 {
                assert_eq!(copy.page(page), &ZERO);
            }
            assert_eq!(copy.page_mut(1), &ZERO);
            copy.set(2, &[9; PAGE]);
            assert_eq!(copy.page(2), &[9; PAGE]);
        }
    }

    #[test]
    #[should_panic(expected = "a page of guest memory")]
    fn there_is_no_page_behind_the_last() {
        let copy = MemoryCopy::beside(std::ptr::null(), 4).expect("four pages");
        let _ = copy.page(4);
    }
}
