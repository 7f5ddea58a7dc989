//! The receiving side of state transfers.

use std::sync::Arc;

use super::aside::Aside;
use super::error::StateError;
use super::parts::Pieces;
use super::patch::{PatchError, read_block};
use super::seal::Seal;
use super::{Baseline, MemoryTaker};
use crate::cpu::Look;
use crate::engine::Moment;

/// Takes the other side's state over.
///
/// The memory of a transfer of the whole state comes beside the log, and goes into guest memory as it comes
/// ([`MemoryTaker`]). That of a delta does at its end, as a whole or
/// not at all: if the primary dies within it, the backup goes on from where it is. Until then its pages are
/// in the baseline's cache, or aside.
pub struct Incoming {
    baseline: Baseline,
    /// Pages of the present delta that the cache does not keep.
    aside: Aside,
    rest: Pieces,
    /// The transfer builds on nothing.
    whole: bool,
    seal: Seal,
    /// Takes memory that comes beside the log.
    memory: Arc<MemoryTaker>,
}

impl Incoming {
    /// For a guest whose state at the last synchronisation point was `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self {
            memory: Arc::new(MemoryTaker::new(&baseline)),
            baseline,
            aside: Aside::default(),
            rest: Pieces::default(),
            whole: false,
            seal: Seal::default(),
        }
    }

    /// The baseline, for digests.
    pub fn baseline(&mut self) -> &mut Baseline {
        &mut self.baseline
    }

    /// Who takes memory that comes beside the log.
    #[must_use]
    pub fn memory_taker(&self) -> Arc<MemoryTaker> {
        Arc::clone(&self.memory)
    }

    /// The transfer of the whole state with this number begins.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn begin_whole(&mut self, at: &mut Moment<'_>, transfer: u32) -> Result<(), StateError> {
        self.abandon();
        self.whole = true;
        // Before memory is touched, or the access could still write to it.
        at.cpu.complete_access()?;
        // Every page with a content is to come, or is zero.
        self.baseline.suspect_written(at.cpu, Look::Hidden)?;
        self.baseline.begin_whole_on_zeros();
        self.memory.open(transfer);
        Ok(())
    }

    /// All of the memory of a transfer of the whole state was sent, in so many blocks: waits for them.
    ///
    /// # Errors
    /// [`StateError::Memory`].
    pub fn complete_memory(&mut self, blocks: u64) -> Result<(), StateError> {
        self.memory.complete(blocks)
    }

    /// A part of a transfer comes. If that is a delta, its guest has made `exits` exits, and what came of one
    /// to another place is of no use any more.
    fn begin_delta(&mut self, exits: u64) {
        if !self.whole && self.baseline.begin_delta(exits) {
            self.aside.clear();
            self.seal.begin_delta(exits);
        }
    }

    /// A block of memory that changed after so many exits.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pages(&mut self, exits: u64, block: &[u8]) -> Result<(), StateError> {
        if self.whole {
            let reason = "memory of the whole state is in the log".into();
            return Err(PatchError::Malformed(reason).into());
        }
        self.begin_delta(exits);
        self.seal.add(block);
        for patch in read_block(block)? {
            if let Some(content) = self.baseline.stage(&patch)? {
                self.aside.put(patch.page, &content)?;
            }
        }
        Ok(())
    }

    /// A piece of what is not memory, after so many exits.
    ///
    /// # Errors
    /// [`StateError::Patch`].
    pub fn rest(&mut self, exits: u64, piece: &[u8]) -> Result<(), StateError> {
        self.begin_delta(exits);
        self.seal.add(piece);
        Ok(self.rest.add(piece)?)
    }

    /// Whether a piece of what is not memory came: the next one is to follow, or the end.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Forgets what came of a transfer. Only another one of the whole state can follow.
    pub fn abandon(&mut self) {
        self.memory.close();
        self.aside.clear();
        self.rest.forget();
        self.seal.begin();
    }

    /// What both sides know of guest memory: for digests, and for a role that comes after this one.
    #[must_use]
    pub fn into_baseline(self) -> Baseline {
        self.memory.end();
        self.baseline
    }

    /// The last piece, after so many exits: the guest is at the next one now. What the processor keeps of
    /// its page tables is forgotten, as on the other side: it is of a guest that went another way, and
    /// this VMM wrote to them.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn commit(
        &mut self,
        at: &mut Moment<'_>,
        exits: u64,
        last: &[u8],
    ) -> Result<(), StateError> {
        self.begin_delta(exits);
        self.rest.add(self.seal.open(last)?)?;
        let rest = self.rest.unpack()?;
        if self.whole && rest.devices.is_none() {
            return Err(StateError::NoDevices);
        }
        if !self.whole {
            // Before memory is touched, or the access could still write to it.
            at.cpu.complete_access()?;
        }
        self.take_memory(at)?;
        at.cpu.load(&rest.cpu)?;
        at.cpu.drop_translations()?;
        if let Some(devices) = &rest.devices {
            at.devices.load(devices)?;
        }
        self.whole = false;
        Ok(())
    }

    /// The log comes to the end of a renewal, and this guest has followed the log until there: the state is
    /// its own.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pass_renewal(&mut self, at: &mut Moment<'_>) -> Result<(), StateError> {
        self.abandon();
        self.whole = false;
        at.cpu.complete_access()?;
        self.baseline.agree(at.cpu)?;
        Ok(())
    }

    /// Makes guest memory what the other side's is. What only this guest wrote is left as it is: a digest
    /// finds the difference.
    fn take_memory(&mut self, at: &mut Moment<'_>) -> Result<(), StateError> {
        self.baseline.suspect_written(at.cpu, Look::Hidden)?;
        let mut unchanged = self.baseline.no_pages();
        if !self.whole {
            for page in self.baseline.settled().iter() {
                let content = self.aside.get(page).or(self.baseline.cached(page));
                if !self.baseline.put(page, content.expect("it was staged")) {
                    unchanged.insert(page);
                }
            }
        }
        at.cpu
            .looked_at(Look::Hidden, 0..self.baseline.pages(), &unchanged);
        self.aside.clear();
        self.baseline.trust_settled();
        Ok(())
    }
}
