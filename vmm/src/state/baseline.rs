//! Guest memory as it was at the last synchronisation point.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::hashes::{Hashes, IN_MEMORY, ZERO, hash};
use super::page_cache::PageCache;
use super::patch::{Base, PagePatch, PatchError};
use crate::cpu::{CpuError, GuestCpu, Look};
use crate::ram::{self, GuestRam, PAGE, PageSet};

/// What both sides know of each page as it was at the last synchronisation point, or as a transfer
/// under way has brought it since: a hash of all pages, and what some of them held.
///
/// Costs a fifteenth of the guest's memory ([`Baseline::most_bytes`]).
pub struct Baseline {
    memory: GuestRam,
    hashes: Hashes,
    cache: PageCache,
    pages: u64,
    /// The pages in which guest memory may differ from the baseline, but for those written since
    /// [`Baseline::suspect_written`].
    suspects: PageSet,
    /// The pages that were written since a transfer beside the baseline looked at them, if there is one.
    watched: Option<PageSet>,
    transfer: Transfer,
    /// The pages that the other side has as they are here, whatever its guest did, until another transfer
    /// begins: those that the present one brought, or all if it builds on zeros.
    settled: PageSet,
    /// The next page to look at without a reason.
    scrubbed: u64,
    /// In how many digests all of memory is looked at once.
    scrub_parts: u64,
}

/// All of memory is looked at once in this many digests: some ten minutes.
const SCRUB_PARTS: u64 = 512;
/// The first time after a transfer of the whole state, which may have got a page wrong, in so many,
const FIRST_SCRUB_PARTS: u64 = 16;
/// or in as many as it takes if none looks at more than so many pages.
const FIRST_SCRUB_PAGES: u64 = 4096;

/// What a transfer builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    /// Nothing.
    Whole,
    /// The other side's guest, which stands at this exit.
    Delta(u64),
}

/// There is not enough memory for what is kept of the guest's.
#[derive(Debug, thiserror::Error)]
#[error("cannot allocate {bytes} bytes for what state transfers and digests keep of guest memory")]
pub struct NoRoom {
    bytes: u64,
    #[source]
    source: std::collections::TryReserveError,
}

/// What became of a page since the last synchronisation point.
pub(super) struct Change {
    /// Whether it is another now.
    pub(super) is_other: bool,
    /// What the other side needs to have it.
    pub(super) patch: Option<PagePatch>,
}

impl Baseline {
    /// Memory as it is now, before the guest runs: all that is not zero was written by the VMM.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn new(memory: GuestRam) -> Result<Self, NoRoom> {
        let pages = ram::page_count(&memory);
        let no_room = |source| NoRoom {
            bytes: Self::most_bytes(pages * PAGE as u64),
            source,
        };
        let mut baseline = Self {
            hashes: Hashes::of_zeros(pages).map_err(no_room)?,
            cache: PageCache::new(pages).map_err(no_room)?,
            memory,
            pages,
            suspects: PageSet::empty(pages),
            watched: None,
            transfer: Transfer::Whole,
            settled: PageSet::empty(pages),
            scrubbed: 0,
            scrub_parts: SCRUB_PARTS,
        };
        // A kernel that starts changes a few bytes in most of its pages.
        for page in ram::take_written(&baseline.memory) {
            if baseline.take_changed(page).is_some() {
                let content = *baseline.current(page);
                baseline.cache.keep(page, &content);
            }
        }
        Ok(baseline)
    }

    /// How many bytes it may come to for a guest with so many, but for some pages.
    #[must_use]
    pub fn most_bytes(memory_bytes: u64) -> u64 {
        // A hash for each page, and three page sets: two here, one of whoever has it.
        let pages = memory_bytes / PAGE as u64;
        pages * size_of::<u64>() as u64 + 3 * pages / 8 + PageCache::most_bytes(pages)
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
        let Some(watched) = &mut self.watched else {
            return take_written(&self.memory, cpu, look, &mut self.suspects);
        };
        let mut written = PageSet::empty(self.pages);
        take_written(&self.memory, cpu, look, &mut written)?;
        watched.insert_bitmap(written.words());
        self.suspects.insert_bitmap(written.words());
        Ok(())
    }

    /// Begins to send what builds on nothing, beside what both sides know of each page, which goes on: all of
    /// memory is to be sent. The hashes are those of what is sent of it.
    pub(super) fn begin_beside(&mut self) -> Result<Hashes, NoRoom> {
        let hashes = Hashes::of_zeros(self.pages).map_err(|source| NoRoom {
            bytes: self.pages * size_of::<u64>() as u64,
            source,
        })?;
        self.watched = Some(self.no_pages());
        Ok(hashes)
    }

    /// That has come to its end, or to nothing.
    pub(super) fn end_beside(&mut self) {
        self.watched = None;
    }

    /// How many pages a transfer of the whole state has to look at yet.
    pub(super) fn due(&self) -> u64 {
        self.watched.as_ref().unwrap_or(&self.suspects).len()
    }

    /// Those pages, which somebody else looks at now.
    pub(super) fn take_due(&mut self) -> PageSet {
        let due = self.watched.as_mut().unwrap_or(&mut self.suspects);
        std::mem::replace(due, PageSet::empty(self.pages))
    }

    /// The other side has these pages, of a transfer beside the baseline.
    pub(super) fn adopt(&mut self, hashes: Hashes) {
        self.hashes = hashes;
    }

    /// Both sides have all of memory as it is here, and nothing else. What the processor keeps of its page
    /// tables is forgotten.
    pub(super) fn agree(&mut self, cpu: &mut dyn GuestCpu) -> Result<(), CpuError> {
        self.suspect_written(cpu, Look::Hidden)?;
        while let Some(page) = self.suspects.take_first() {
            self.hashes.set(page, hash(self.current(page)));
        }
        cpu.looked_at(Look::Hidden, 0..self.pages, &PageSet::empty(self.pages));
        self.cache.forget();
        self.transfer = Transfer::Whole;
        self.settled = PageSet::full(self.pages);
        cpu.drop_translations()?;
        Ok(())
    }

    /// The first page of `range` that is suspected, which is to be looked at now.
    pub(super) fn next_suspect_in(&mut self, range: Range<u64>) -> Option<u64> {
        self.suspects.take_first_in(range)
    }

    /// Suspects pages though nobody is known to have written to them: others each time.
    pub(super) fn suspect_some(&mut self) {
        let first = self.scrubbed;
        let next = (first + self.pages.div_ceil(self.scrub_parts)).min(self.pages);
        self.scrubbed = next;
        if next == self.pages {
            self.scrubbed = 0;
            self.scrub_parts = SCRUB_PARTS;
        }
        (first..next).for_each(|page| self.suspects.insert(page));
    }

    /// Suspects these pages as well.
    pub(super) fn suspect(&mut self, pages: &PageSet) {
        self.suspects.insert_bitmap(pages.words());
    }

    /// How many pages are suspected.
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

    /// Begins to send what builds on nothing: both sides have zeros, which guest memory need not be. All
    /// of memory is to be sent.
    pub(super) fn begin_whole(&mut self) {
        self.build_on_zeros();
        self.suspects.clear();
    }

    /// The hashes, for those who send or take memory beside the log.
    pub(super) fn hashes(&self) -> Hashes {
        self.hashes.clone()
    }

    /// Begins to receive that: makes guest memory zero. What was written there is suspected by now
    /// ([`Baseline::suspect_written`]). Pages that are known to be zero are left alone: to read all of a
    /// large memory takes longer than the other side waits.
    pub(super) fn begin_whole_on_zeros(&mut self) {
        let zero = hash(&ZERO);
        for page in 0..self.pages {
            if self.hashes.get(page) != zero || self.suspects.contains(page) {
                self.put(page, &ZERO);
            }
        }
        self.build_on_zeros();
        self.suspects.clear();
    }

    fn build_on_zeros(&mut self) {
        self.hashes.forget();
        self.cache.forget();
        self.transfer = Transfer::Whole;
        self.settled = PageSet::full(self.pages);
        self.scrubbed = 0;
        self.scrub_parts = (self.pages / FIRST_SCRUB_PAGES).max(FIRST_SCRUB_PARTS);
    }

    /// Begins a delta to a guest that stands at the exit `exits`, or goes on with it. Whether it is another
    /// than before: what that one brought, and did not complete, the other side's guest has left behind.
    pub(super) fn begin_delta(&mut self, exits: u64) -> bool {
        let is_new = self.transfer != Transfer::Delta(exits);
        if is_new {
            self.transfer = Transfer::Delta(exits);
            self.settled.clear();
            self.cache.begin_transfer();
        }
        is_new
    }

    /// What became of a page, for the present transfer, which has it then.
    ///
    /// The other side's guest may have changed a page that is what it was, and is now. So each that was
    /// written is in a delta once: what its guest did not write, it has.
    pub(super) fn take_change(&mut self, page: u64) -> Change {
        let content = *self.current(page);
        let hash = hash(&content);
        let is_other = hash != self.hashes.get(page);
        let patch = (is_other || !self.settled.contains(page)).then(|| {
            let (base, before) = match self.cache.get(page) {
                Some(before) => (Base::Cached, before),
                None => (Base::Zeros, &ZERO),
            };
            PagePatch::between(page, base, before, &content)
        });
        if patch.is_some() {
            self.settle(page, &content, hash);
        }
        Change { is_other, patch }
    }

    /// The present transfer brings this page.
    fn settle(&mut self, page: u64, content: &[u8; PAGE], hash: u64) {
        self.hashes.set(page, hash);
        if self.cache.get(page).is_some() {
            self.cache.change(page, content);
        } else if !self.settled.contains(page) {
            self.cache.keep(page, content);
        }
        self.settled.insert(page);
    }

    /// The hash of a page that changed since then, as it is part of the baseline now.
    pub(super) fn take_changed(&mut self, page: u64) -> Option<u64> {
        let content = self.current(page);
        let hash = hash(content);
        if hash == self.hashes.get(page) {
            return None;
        }
        if self.cache.get(page).is_some() {
            let content = *content;
            self.cache.refresh(page, &content);
        }
        self.hashes.set(page, hash);
        Some(hash)
    }

    /// Takes a page of the present transfer over, but not into guest memory. What it holds if the cache
    /// does not keep that.
    pub(super) fn stage(&mut self, patch: &PagePatch) -> Result<Option<[u8; PAGE]>, PatchError> {
        let page = patch.page;
        if page >= self.pages {
            return Err(PatchError::OutOfRange { page });
        }
        let mut content = match (patch.base, self.cache.get(page)) {
            (Base::Cached, Some(before)) => *before,
            (Base::Zeros, None) => ZERO,
            _ => return Err(PatchError::Base { page }),
        };
        patch.apply(&mut content)?;
        self.settle(page, &content, hash(&content));
        self.suspects.insert(page);
        Ok(self.cache.get(page).is_none().then_some(content))
    }

    /// The pages that the present transfer brought, or all if it builds on nothing.
    pub(super) fn settled(&self) -> &PageSet {
        &self.settled
    }

    /// What the cache keeps of a page.
    pub(super) fn cached(&self, page: u64) -> Option<&[u8; PAGE]> {
        self.cache.get(page)
    }

    /// Makes this the content of a page of guest memory. Whether that changed it.
    pub(super) fn put(&self, page: u64, content: &[u8; PAGE]) -> bool {
        let is_other = self.current(page) != content;
        if is_other {
            self.memory
                .write_slice(content, address(page))
                .expect(IN_MEMORY);
        }
        is_other
    }

    /// Guest memory has what the present transfer brought: what was written there until now is no reason to
    /// look at it.
    pub(super) fn trust_settled(&mut self) {
        let _ = ram::take_written(&self.memory);
        self.suspects.remove_all(&self.settled);
    }
}

/// Adds the pages that the guest or the VMM wrote.
fn take_written(
    memory: &GuestRam,
    cpu: &mut dyn GuestCpu,
    look: Look,
    into: &mut PageSet,
) -> Result<(), CpuError> {
    cpu.take_written_pages(look, into)?;
    for page in ram::take_written(memory) {
        into.insert(page);
    }
    Ok(())
}

fn address(page: u64) -> GuestAddress {
    GuestAddress(page * PAGE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many digests look at all of memory, and how many pages each of the next looks at.
    fn scrub(baseline: &mut Baseline) -> (u64, u64) {
        let mut looked_at = baseline.no_pages();
        let mut digests = 0;
        let mut part = |baseline: &mut Baseline| {
            baseline.suspect_some();
            let pages: Vec<u64> = std::iter::from_fn(|| baseline.next_suspect()).collect();
            pages.iter().for_each(|page| looked_at.insert(*page));
            (pages.len() as u64, looked_at.len())
        };
        while part(baseline).1 < baseline.pages() {
            digests += 1;
        }
        (digests + 1, part(baseline).0)
    }

    /// Otherwise a page that a join got wrong stays unnoticed for ten minutes.
    #[test]
    fn all_of_memory_is_looked_at_soon_after_a_transfer_and_then_by_and_by() {
        let ram = ram::allocate(4096 * PAGE as u64).expect("memory");
        let mut baseline = Baseline::new(ram).expect("memory");
        let by_and_by = (SCRUB_PARTS, 4096 / SCRUB_PARTS);
        assert_eq!(scrub(&mut baseline), by_and_by);
        baseline.begin_whole_on_zeros();
        baseline.suspects.clear();
        assert_eq!(
            scrub(&mut baseline),
            (FIRST_SCRUB_PARTS, 4096 / SCRUB_PARTS)
        );
        assert_eq!(scrub(&mut baseline), by_and_by);
    }
}
