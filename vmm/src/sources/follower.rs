//! Follows the guest's state in a log: takes transfers over, compares digests.

use std::sync::Arc;
use std::time::Instant;

use logging_channel::entry::{ExecutionPoint, Lsn, PageDigest, Registers, StateDigest, StatePart};

use super::pace::StateCounters;
use crate::engine::{Difference, Interruption, Moment, StateDifference, Step};
use crate::page_tables::AddressSpace;
use crate::ram::{PAGE, PageSet};
use crate::state::{
    Baseline, Incoming, MemoryTaker, StateError, digest, digest_rest, part_digests,
};

/// Follows the guest's state in a log.
pub struct StateFollower {
    incoming: Incoming,
    counters: Arc<StateCounters>,
    /// A transfer of the whole state is under way.
    whole: bool,
    bytes: u64,
}

impl StateFollower {
    /// For a guest that begins with `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline, counters: Arc<StateCounters>) -> Self {
        Self {
            incoming: Incoming::new(baseline),
            counters,
            whole: false,
            bytes: 0,
        }
    }

    /// Who takes guest memory that comes beside the log.
    #[must_use]
    pub fn memory_taker(&self) -> Arc<MemoryTaker> {
        self.incoming.memory_taker()
    }

    /// What it knows of the guest's memory, for one that does not follow a log any more.
    #[must_use]
    pub fn into_baseline(self) -> Baseline {
        self.incoming.into_baseline()
    }

    /// Takes a part of a transfer, at this place in the log. `true` when the transfer is complete: the
    /// guest stands there.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn take(
        &mut self,
        at: &mut Moment<'_>,
        place: ExecutionPoint,
        part: &StatePart,
    ) -> Result<bool, StateError> {
        // The last parts have the exit that the place becomes.
        let before = place.exits.saturating_sub(1);
        match part {
            StatePart::Begin(transfer) => {
                self.whole = true;
                self.bytes = 0;
                self.incoming.begin_whole(at, *transfer)?;
                Ok(false)
            }
            StatePart::Pages(block) => {
                self.bytes += block.len() as u64;
                self.incoming.pages(place.exits, block)?;
                Ok(false)
            }
            StatePart::Memory(blocks) => {
                self.incoming.complete_memory(*blocks)?;
                Ok(false)
            }
            StatePart::Rest(piece) => {
                self.bytes += piece.len() as u64;
                self.incoming.rest(before, piece)?;
                Ok(false)
            }
            StatePart::Commit(last) => {
                let since = Instant::now();
                self.bytes += last.len() as u64;
                self.incoming.commit(at, before, last)?;
                let bytes = std::mem::take(&mut self.bytes);
                if std::mem::take(&mut self.whole) {
                    self.counters.transfer_bytes(bytes);
                    self.counters.transfer();
                } else {
                    self.counters.taken_over(bytes, since.elapsed());
                }
                Ok(true)
            }
        }
    }

    /// A renewal has come to its end, which this guest has followed.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn pass_renewal(&mut self, at: &mut Moment<'_>) -> Result<(), StateError> {
        self.incoming.pass_renewal(at)
    }

    /// Whether parts of a transfer came, and its end did not.
    pub(super) fn is_midway(&self) -> bool {
        self.incoming.is_midway()
    }

    /// A transfer that was not complete will not be any more.
    pub(super) fn abandon(&mut self) {
        self.bytes = 0;
        self.incoming.abandon();
    }

    /// Compares a part of a digest with the guest's own state.
    ///
    /// # Errors
    /// [`Interruption::Diverged`] names what differs.
    pub(super) fn compare(
        &mut self,
        at: &mut Moment<'_>,
        lsn: Lsn,
        logged: &StateDigest,
    ) -> Step<()> {
        let since = Instant::now();
        let range = logged.range.clone();
        let mut own = digest(self.incoming.baseline(), at, range, None)?;
        if logged.last.is_some() {
            own.last = Some(digest_rest(at)?);
        }
        self.counters.digest(since.elapsed(), own.last.is_some());
        if own == *logged {
            return Ok(());
        }
        let names = part_digests(at)?.into_iter().map(|(name, _)| name);
        let rest = |digest: &StateDigest| digest.last.clone().unwrap_or_default();
        let (own_rest, logged_rest) = (rest(&own), rest(logged));
        let same = own_rest.parts.iter().zip(&logged_rest.parts);
        let pages = different_pages(&logged.pages, &own.pages);
        let root = at.registers()?.cr3;
        let space = AddressSpace::of(self.incoming.baseline().memory(), root);
        let count = |set: &PageSet| pages.iter().filter(|page| set.contains(**page)).count();
        let difference = StateDifference {
            page_tables: count(&space.tables),
            program_pages: count(&space.program),
            registers: different_registers(&logged_rest.registers, &own_rest.registers).collect(),
            parts: names
                .zip(same)
                .filter(|(_, (own, logged))| own != logged)
                .map(|(name, _)| name)
                .collect(),
            stack: stack_among(at, &pages)?,
            pages,
        };
        Err(Interruption::diverged(
            at.point,
            lsn,
            Difference::State(Box::new(difference)),
        ))
    }
}

/// Whose stack is among these pages, if the processor's stack pointer is in one of them.
fn stack_among(at: &mut Moment<'_>, pages: &[u64]) -> Step<Option<&'static str>> {
    const RSP: usize = 6;
    const KERNEL_HALF: u64 = 1 << 63;
    let registers = at.registers()?;
    let top = at.cpu.translate(registers.gpr[RSP]);
    let is_there = top.is_some_and(|top| pages.binary_search(&(top / PAGE as u64)).is_ok());
    Ok(is_there.then_some(if registers.rip < KERNEL_HALF {
        "a program's stack"
    } else {
        "the kernel's stack"
    }))
}

/// The registers that differ: name, logged, own.
pub(super) fn different_registers(
    logged: &Registers,
    own: &Registers,
) -> impl Iterator<Item = (&'static str, u64, u64)> {
    Registers::NAMES
        .into_iter()
        .zip((logged.compared().fields().into_iter()).zip(own.compared().fields()))
        .filter(|(_, (logged, own))| logged != own)
        .map(|(name, (logged, own))| (name, logged, own))
}

/// Pages that are not in both, or not with the same digest.
fn different_pages(logged: &[PageDigest], own: &[PageDigest]) -> Vec<u64> {
    let missing = |list: &[PageDigest], page: &PageDigest| {
        list.binary_search_by_key(&page.page, |p| p.page)
            .map_or(true, |at| list[at] != *page)
    };
    let logged_only = logged.iter().filter(|page| missing(own, page));
    let own_only = own.iter().filter(|page| missing(logged, page));
    let mut pages: Vec<u64> = logged_only.chain(own_only).map(|p| p.page).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_differ_are_named_once() {
        let list = |pages: &[(u64, u32)]| -> Vec<PageDigest> {
            let digest = |&(page, digest): &(u64, u32)| PageDigest { page, digest };
            pages.iter().map(digest).collect()
        };
        let logged = list(&[(1, 10), (2, 20), (5, 50)]);
        let own = list(&[(2, 20), (3, 30), (5, 51)]);
        assert_eq!(different_pages(&logged, &own), [1, 3, 5]);
        assert!(different_pages(&logged, &logged).is_empty());
    }
}
