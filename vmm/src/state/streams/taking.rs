//! The receiving side.

use std::sync::Arc;

use logging_channel::memory::{PutPage, TakeBlocks, TakeMemory};
use parking_lot::{Condvar, Mutex};
use vm_memory::{Bytes, GuestAddress};

use super::block;
use crate::ram::{GuestRam, PAGE};
use crate::state::Baseline;
use crate::state::error::StateError;
use crate::state::hashes::{Hashes, IN_MEMORY, hash};
use crate::state::patch::PatchError;

/// Puts guest memory where it belongs, while the log has its transfer open. The guest does not run then,
/// and nobody else writes to its memory.
pub struct MemoryTaker {
    memory: GuestRam,
    hashes: Hashes,
    pages: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The transfer that the log has begun last. 0 before the first.
    transfer: u32,
    /// Its memory is not complete.
    is_open: bool,
    /// Threads that put a block of it into memory.
    busy: u32,
    blocks: u64,
    /// All of it came at once.
    has_all: bool,
    /// Why no more memory comes, or none can be used.
    over: Option<String>,
}

impl MemoryTaker {
    /// For the guest of `baseline`.
    #[must_use]
    pub fn new(baseline: &Baseline) -> Self {
        Self {
            memory: baseline.memory().clone(),
            hashes: baseline.hashes(),
            pages: baseline.pages(),
            state: Mutex::new(State {
                transfer: 0,
                is_open: false,
                busy: 0,
                blocks: 0,
                has_all: false,
                over: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes no more of a transfer that is under way, and waits until what is being taken is.
    pub(in crate::state) fn close(&self) {
        let mut state = self.state.lock();
        state.is_open = false;
        self.changed.wait_while(&mut state, |state| state.busy > 0);
    }

    /// Takes the memory of this transfer. What comes of those before is thrown away.
    pub(in crate::state) fn open(&self, transfer: u32) {
        let mut state = self.state.lock();
        state.transfer = transfer;
        state.is_open = true;
        state.blocks = 0;
        state.has_all = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all of the transfer's memory is there, which has so many blocks.
    pub(in crate::state) fn complete(&self, blocks: u64) -> Result<(), StateError> {
        let mut state = self.state.lock();
        let is_short =
            |state: &mut State| !state.has_all && state.blocks < blocks && state.over.is_none();
        self.changed.wait_while(&mut state, is_short);
        state.is_open = false;
        match &state.over {
            _ if state.has_all || state.blocks == blocks => Ok(()),
            Some(reason) => Err(StateError::Memory(reason.clone())),
            None => Err(StateError::Memory(format!(
                "{} blocks came, and {blocks} were sent",
                state.blocks
            ))),
        }
    }

    /// Nobody follows the log any more.
    pub(in crate::state) fn end(&self) {
        self.close();
        self.over("nobody takes it".into());
    }

    fn over(&self, reason: String) {
        self.state.lock().over.get_or_insert(reason);
        self.changed.notify_all();
    }

    fn put(&self, page: u64, hash: u64, content: &[u8; PAGE]) -> Result<(), PatchError> {
        if page >= self.pages {
            return Err(PatchError::OutOfRange { page });
        }
        self.memory
            .write_slice(content, GuestAddress(page * PAGE as u64))
            .expect(IN_MEMORY);
        self.hashes.set(page, hash);
        Ok(())
    }

    /// Has `put` put something of this transfer into memory, and `note` take note of that, once the log has
    /// come to its begin; unless that is of no use any more.
    fn take_with(
        &self,
        transfer: u32,
        put: impl FnOnce() -> Result<(), String>,
        note: impl FnOnce(&mut State),
    ) -> Result<(), String> {
        {
            let mut state = self.state.lock();
            let is_early = |state: &mut State| state.transfer < transfer && state.over.is_none();
            self.changed.wait_while(&mut state, is_early);
            if let Some(reason) = &state.over {
                return Err(reason.clone());
            }
            if state.transfer > transfer || !state.is_open {
                return Ok(());
            }
            state.busy += 1;
        }
        let put = put();
        let mut state = self.state.lock();
        state.busy -= 1;
        match &put {
            Ok(()) => note(&mut state),
            Err(error) => state.over = Some(error.clone()),
        }
        drop(state);
        self.changed.notify_all();
        put
    }
}

/// Gives the pages of a block of guest memory: see [`Keep::read_block`](logging_channel::Keep).
///
/// # Errors
/// It is none, or not what was sent; and those of `put`.
pub fn read_block(block: &[u8], put: PutPage<'_>) -> Result<(), String> {
    let mut refused = None;
    let read = block::read(block, |page, _, content| {
        put(page, content).map_err(|reason| {
            refused = Some(reason.clone());
            PatchError::Malformed(reason)
        })
    });
    read.map_err(|error| refused.unwrap_or_else(|| error.to_string()))
}

impl TakeMemory for MemoryTaker {
    fn take_all(
        &self,
        transfer: u32,
        read: &dyn Fn(PutPage<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let put = &mut |page, content: &[u8; PAGE]| {
            let put = self.put(page, hash(content), content);
            put.map_err(|error| error.to_string())
        };
        self.take_with(transfer, || read(put), |state| state.has_all = true)
    }
}

impl TakeBlocks for MemoryTaker {
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String> {
        let put = || {
            let read = block::read(block, |page, hash, content| self.put(page, hash, content));
            read.map_err(|error| error.to_string())
        };
        self.take_with(transfer, put, |state| state.blocks += 1)
    }

    fn ended(&self, reason: String) {
        self.over(reason);
    }
}

/// For threads that read memory streams.
impl MemoryTaker {
    /// As whom they give blocks to.
    #[must_use]
    pub fn as_taker(self: &Arc<Self>) -> Arc<dyn TakeMemory> {
        Arc::clone(self) as Arc<dyn TakeMemory>
    }
}
