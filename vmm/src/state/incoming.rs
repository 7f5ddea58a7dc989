//! The receiving side of state transfers.

use super::Baseline;
use super::parts::Pieces;
use super::patch::{PatchError, read_block};
use super::seal::Seal;
use crate::cpu::{CpuError, Look};
use crate::devices::DeviceStateError;
use crate::engine::Moment;

/// Takes the other side's state over.
pub struct Incoming {
    /// What a delta has changed of it that is not complete is not in guest memory: that follows at
    /// its end, as a whole or not at all. If the primary dies within it, the backup goes on from
    /// where it is, and has no use for the baseline any more.
    baseline: Baseline,
    rest: Pieces,
    /// The transfer builds on nothing.
    whole: bool,
    seal: Seal,
}

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its encoding is wrong.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The processor does not take it, or could not be asked.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The devices do not take it.
    #[error("the devices do not take the state")]
    Devices(#[from] DeviceStateError),
    /// A transfer of the whole state has no devices.
    #[error("a transfer of the whole state came without the devices")]
    NoDevices,
}

impl Incoming {
    /// For a guest whose state at the last synchronisation point was `baseline`.
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self {
            baseline,
            rest: Pieces::default(),
            whole: false,
            seal: Seal::default(),
        }
    }

    /// The baseline, for digests.
    pub fn baseline(&mut self) -> &mut Baseline {
        &mut self.baseline
    }

    /// The baseline, of a guest that follows nobody any more.
    #[must_use]
    pub fn into_baseline(self) -> Baseline {
        self.baseline
    }

    /// A transfer of the whole state begins.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn begin_whole(&mut self, at: &mut Moment<'_>) -> Result<(), StateError> {
        self.abandon();
        self.whole = true;
        // Every page with a content is to come, or is zero. What this look and that of the end would
        // change is dropped there.
        self.baseline.suspect_written(at.cpu, Look::Hidden)?;
        self.baseline.forget();
        while self.baseline.restore_next().is_some() {}
        Ok(())
    }

    /// A block of changed memory.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pages(&mut self, block: &[u8]) -> Result<(), StateError> {
        self.seal.add(block);
        for patch in read_block(block)? {
            self.baseline.stage(&patch)?;
        }
        if self.whole {
            while self.baseline.restore_next().is_some() {}
        }
        Ok(())
    }

    /// A piece of what is not memory.
    ///
    /// # Errors
    /// [`StateError::Patch`].
    pub fn rest(&mut self, piece: &[u8]) -> Result<(), StateError> {
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
        self.rest.forget();
        self.seal.begin();
    }

    /// The last piece: the guest is at the transfer's execution point now. What the processor keeps of
    /// its page tables is forgotten, as on the other side: it is of a guest that went another way, and
    /// this VMM wrote to them.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn commit(&mut self, at: &mut Moment<'_>, last: &[u8]) -> Result<(), StateError> {
        self.rest.add(self.seal.open(last)?)?;
        let rest = self.rest.unpack()?;
        if self.whole && rest.devices.is_none() {
            return Err(StateError::NoDevices);
        }
        // Before memory is touched, or the access could still write to it.
        at.cpu.complete_access()?;
        self.baseline.suspect_written(at.cpu, Look::Hidden)?;
        let mut unchanged = self.baseline.no_pages();
        while let Some((page, is_changed)) = self.baseline.restore_next() {
            if !is_changed {
                unchanged.insert(page);
            }
        }
        at.cpu
            .looked_at(Look::Hidden, 0..self.baseline.pages(), &unchanged);
        at.cpu.load(&rest.cpu)?;
        at.cpu.drop_translations()?;
        if let Some(devices) = &rest.devices {
            at.devices.load(devices)?;
        }
        self.whole = false;
        Ok(())
    }
}
