//! Guest memory as it was at the last synchronisation point.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::memory_copy::MemoryCopy;
use super::patch::{PagePatch, PatchError};
use crate::cpu::{CpuError, GuestCpu, Look};
use crate::ram::{self, GuestRam, PAGE, PageSet};

/// A copy of guest memory that both sides have: each page as it was at the last synchronisation
/// point, or as a transfer under way has brought it since.
///
/// Costs as much memory as the guest has written to: pages that are zero are never touched.
pub struct Baseline {
    memory: GuestRam,
    copy: MemoryCopy,
    pages: u64,
    /// The pages in which guest memory may differ from the copy, but for those written since
    /// [`Baseline::suspect_written`].
    suspects: PageSet,
    /// The next page to look at without a reason.
    scrubbed: u64,
}

/// All of memory is looked at once in this many digests: some ten minutes.
const SCRUB_PARTS: u64 = 512;

/// There is not enough memory for the copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot allocate {bytes} bytes for the copy of guest memory that state transfers and digests \
     need"
)]
pub struct NoRoom {
    bytes: u64,
    #[source]
    source: vm_memory::mmap::MmapRegionError,
}

const IN_MEMORY: &str = "a page of guest memory";

impl Baseline {
    /// Memory as it is now, before the guest runs: all that is not zero was written by the VMM.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn new(memory: GuestRam) -> Result<Self, NoRoom> {
        let bytes = memory.last_addr().0 + 1;
        let pages = bytes / PAGE as u64;
        let first = memory.get_slice(address(0), PAGE).expect(IN_MEMORY);
        let copy = MemoryCopy::beside(first.ptr_guard().as_ptr(), pages)
            .map_err(|source| NoRoom { bytes, source })?;
        let mut baseline = Self {
            memory,
            copy,
            pages,
            suspects: PageSet::empty(pages),
            scrubbed: 0,
        };
        for page in ram::take_written(&baseline.memory) {
            baseline.take_changed(page);
        }
        Ok(baseline)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Number of pages of guest memory.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn no_pages(&self) -> PageSet {
        PageSet::empty(self.pages)
    }

    /// Suspects the pages that the guest or the VMM wrote since the last call.
    pub(super) fn suspect_written(
        &mut self,
        cpu: &mut dyn GuestCpu,
        look: Look,
    ) -> Result<(), CpuError> {
        cpu.take_written_pages(look, &mut self.suspects)?;
        for page in ram::take_written(&self.memory) {
            self.suspects.insert(page);
        }
        Ok(())
    }

    /// The first page of `range` that is suspected, which is to be looked at now.
    pub(super) fn next_suspect_in(&mut self, range: Range<u64>) -> Option<u64> {
        self.suspects.take_first_in(range)
    }

    /// Suspects pages though nobody is known to have written to them: others each time.
    pub(super) fn suspect_some(&mut self) {
        let first = self.scrubbed;
        let next = (first + self.pages.div_ceil(SCRUB_PARTS)).min(self.pages);
        self.scrubbed = if next == self.pages { 0 } else { next };
        (first..next).for_each(|page| self.suspects.insert(page));
    }

    /// Suspects these pages as well.
    pub(super) fn suspect(&mut self, pages: &PageSet) {
        self.suspects.insert_bitmap(pages.words());
    }

    /// How many pages are suspected: a transfer has to look at them yet.
    pub(crate) fn suspects(&self) -> u64 {
        self.suspects.len()
    }

    /// The first page that is suspected, which is to be looked at now.
    pub(super) fn next_suspect(&mut self) -> Option<u64> {
        self.suspects.take_first()
    }

    /// What a page holds now. To be called while the guest stands still.
    fn current(&self, page: u64) -> &[u8; PAGE] {
        let slice = self.memory.get_slice(address(page), PAGE).expect(IN_MEMORY);
        // SAFETY: the slice is as long as a page, and guest memory is mapped as long as `self` has
        // it. Nobody writes to it meanwhile: the guest stands still, and what the VMM writes, it
        // writes on this thread, in the order of the log.
        unsafe { &*slice.ptr_guard().as_ptr().cast() }
    }

    /// What a page holds now, if that is not what the copy has.
    fn changed(&self, page: u64) -> Option<&[u8; PAGE]> {
        let content = self.current(page);
        (content != self.before(page)).then_some(content)
    }

    /// What the copy has of a page.
    fn before(&self, page: u64) -> &[u8; PAGE] {
        self.copy.page(page)
    }

    /// The change of a page since then, which becomes part of the baseline.
    pub(super) fn take_change(&mut self, page: u64) -> Option<PagePatch> {
        let content = *self.changed(page)?;
        let patch = PagePatch::between(page, self.before(page), &content);
        self.copy.set(page, &content);
        Some(patch)
    }

    /// What a page holds now if it changed since then, which becomes part of the baseline.
    pub(super) fn take_changed(&mut self, page: u64) -> Option<[u8; PAGE]> {
        let content = *self.changed(page)?;
        self.copy.set(page, &content);
        Some(content)
    }

    /// Makes guest memory what the copy has, in the first page that is suspected. Returns the page,
    /// and whether it had to be changed.
    pub(super) fn restore_next(&mut self) -> Option<(u64, bool)> {
        let page = self.next_suspect()?;
        let is_changed = self.changed(page).is_some();
        if is_changed {
            self.memory
                .write_slice(self.before(page), address(page))
                .expect(IN_MEMORY);
        }
        Some((page, is_changed))
    }

    /// Changes the copy. Guest memory follows with [`Baseline::restore_next`].
    pub(super) fn stage(&mut self, patch: &PagePatch) -> Result<(), PatchError> {
        if patch.page >= self.pages {
            return Err(PatchError::OutOfRange { page: patch.page });
        }
        patch.apply(self.copy.page_mut(patch.page))?;
        self.suspects.insert(patch.page);
        Ok(())
    }

    /// Forgets everything: both sides begin with zeros. Guest memory is left as it is.
    pub(super) fn forget(&mut self) {
        self.copy.forget();
        self.suspects = PageSet::full(self.pages);
    }
}

fn address(page: u64) -> GuestAddress {
    GuestAddress(page * PAGE as u64)
}
