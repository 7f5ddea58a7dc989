//! Guest memory as it was at the last synchronisation point.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::PageSet;
use super::patch::{PagePatch, PatchError};
use crate::cpu::{CpuError, GuestCpu};
use crate::ram::{self, GuestRam};

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

/// A copy of guest memory as both sides had it at the last synchronisation point.
///
/// Costs as much memory as the guest has written to: pages that are zero are never touched.
pub struct Baseline {
    memory: GuestRam,
    copy: GuestMemoryMmap,
    pages: u64,
    /// The next page to look at without a reason.
    scrubbed: u64,
}

/// All of memory is looked at once in this many digests.
const SCRUB_PARTS: u64 = 64;

/// There is not enough memory for the copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot allocate {bytes} bytes for the copy of guest memory that state transfers and digests \
     need"
)]
pub struct NoRoom {
    bytes: u64,
    #[source]
    source: vm_memory::mmap::FromRangesError,
}

const IN_MEMORY: &str = "a page of guest memory";

impl Baseline {
    /// Memory as it is now, before the guest runs: all that is not zero was written by the VMM.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn new(memory: GuestRam) -> Result<Self, NoRoom> {
        let bytes = memory.last_addr().0 + 1;
        let copy = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes as usize)])
            .map_err(|source| NoRoom { bytes, source })?;
        let mut baseline = Self {
            memory,
            copy,
            pages: bytes / PAGE as u64,
            scrubbed: 0,
        };
        for page in ram::take_written(&baseline.memory) {
            let content = baseline.current(page);
            baseline.advance(page, &content);
        }
        Ok(baseline)
    }

    /// Number of pages of guest memory.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn no_pages(&self) -> PageSet {
        PageSet::empty(self.pages)
    }

    /// The pages written since the last call, by the guest or by the VMM.
    pub(super) fn take_written(&self, cpu: &mut dyn GuestCpu) -> Result<PageSet, CpuError> {
        let mut written = self.no_pages();
        cpu.take_written_pages(&mut written)?;
        for page in ram::take_written(&self.memory) {
            written.insert(page);
        }
        Ok(written)
    }

    /// Pages to be looked at though nobody is known to have written to them.
    pub(super) fn next_to_scrub(&mut self) -> std::ops::Range<u64> {
        let first = self.scrubbed;
        let next = (first + self.pages.div_ceil(SCRUB_PARTS)).min(self.pages);
        self.scrubbed = if next == self.pages { 0 } else { next };
        first..next
    }

    /// What a page holds now.
    pub(super) fn current(&self, page: u64) -> [u8; PAGE] {
        read(&self.memory, page)
    }

    /// What a page held at the last synchronisation point.
    pub(super) fn before(&self, page: u64) -> [u8; PAGE] {
        read(&self.copy, page)
    }

    /// The change of a page since then, which becomes part of the baseline.
    pub(super) fn take_change(&mut self, page: u64) -> Option<PagePatch> {
        let content = self.current(page);
        let patch = PagePatch::between(page, &self.before(page), &content)?;
        self.advance(page, &content);
        Some(patch)
    }

    /// Both sides have `content` in this page now.
    pub(super) fn advance(&mut self, page: u64, content: &[u8; PAGE]) {
        write(&self.copy, page, content);
    }

    /// Puts guest memory back.
    pub(super) fn restore(&self, page: u64) {
        write(&self.memory, page, &self.before(page));
    }

    /// Changes the baseline and guest memory alike.
    pub(super) fn apply(&mut self, patch: &PagePatch) -> Result<(), PatchError> {
        if patch.page >= self.pages {
            return Err(PatchError::OutOfRange { page: patch.page });
        }
        let mut content = self.before(patch.page);
        patch.apply(&mut content)?;
        self.advance(patch.page, &content);
        write(&self.memory, patch.page, &content);
        Ok(())
    }

    /// Forgets everything: both sides begin with zeros. Guest memory is left as it is.
    pub(super) fn forget(&mut self) {
        let zero = [0; PAGE];
        for page in 0..self.pages {
            if self.before(page) != zero {
                self.advance(page, &zero);
            }
        }
    }
}

fn address(page: u64) -> GuestAddress {
    GuestAddress(page * PAGE as u64)
}

fn read<R: GuestMemoryRegion>(memory: &vm_memory::GuestRegionCollection<R>, page: u64) -> [u8; PAGE]
where
    vm_memory::GuestRegionCollection<R>: Bytes<GuestAddress, E = vm_memory::GuestMemoryError>,
{
    let mut content = [0; PAGE];
    memory
        .read_slice(&mut content, address(page))
        .expect(IN_MEMORY);
    content
}

fn write<R: GuestMemoryRegion>(
    memory: &vm_memory::GuestRegionCollection<R>,
    page: u64,
    content: &[u8; PAGE],
) where
    vm_memory::GuestRegionCollection<R>: Bytes<GuestAddress, E = vm_memory::GuestMemoryError>,
{
    memory.write_slice(content, address(page)).expect(IN_MEMORY);
}
