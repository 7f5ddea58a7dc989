//! The memory that comes beside the log, of a cold backup.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::spool::{MemoryFile, MemoryReader, Spool, SpoolError, memory_file};
use crate::memory::TakeBlocks;
use crate::settings::Keep;

/// The memory that comes beside the log: on the disk until a replay begins, and to the replay then.
pub(super) struct KeptMemory {
    keep: Keep,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u32, MemoryFile>,
    /// No transfer before this one is wanted.
    first: u32,
    taker: Option<Arc<dyn TakeBlocks>>,
    /// What is on the disk is given to it.
    is_given: bool,
    /// Streams have ended, for this reason.
    over: Option<String>,
}

impl std::fmt::Debug for KeptMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptMemory").finish_non_exhaustive()
    }
}

impl KeptMemory {
    pub(super) fn new(keep: &Keep) -> Self {
        Self {
            keep: keep.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits until so many blocks of a transfer are there, or until it is the replay that waits for them.
    /// `false` if they do not come.
    pub(super) fn wait(&self, transfer: u32, blocks: u64) -> bool {
        let has = |state: &State| {
            let file = state.files.get(&transfer);
            file.map_or(0, MemoryFile::blocks) >= blocks || state.taker.is_some()
        };
        let mut state = self.state.lock();
        let lacks = |state: &mut State| !has(state) && state.over.is_none();
        self.changed.wait_while(&mut state, lacks);
        has(&state)
    }

    /// Waits until all of it is on the disk.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.state
            .lock()
            .files
            .values()
            .try_for_each(MemoryFile::sync)
    }

    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.state
            .lock()
            .files
            .values()
            .map(MemoryFile::bytes)
            .sum()
    }

    /// Forgets what no replay needs that begins with a state that is complete, or may be.
    pub(super) fn forget_but(&self, spool: &Spool) {
        let needed = spool.generations().first_memory();
        let mut state = self.state.lock();
        if state.taker.is_some() {
            return;
        }
        state.first = needed;
        let later = state.files.split_off(&needed);
        let old = std::mem::replace(&mut state.files, later);
        old.keys()
            .for_each(|transfer| spool.forget_memory(*transfer));
    }

    /// Gives what there is of a transfer to `taker`, and what comes from now on.
    pub(super) fn give(
        self: &Arc<Self>,
        kept: Option<(u32, MemoryReader)>,
        taker: Arc<dyn TakeBlocks>,
        fail: impl Fn(&SpoolError) -> String + Send + 'static,
    ) {
        {
            let mut state = self.state.lock();
            state.taker = Some(taker.clone());
            state.is_given = kept.is_none();
            self.changed.notify_all();
        }
        let Some((transfer, mut reader)) = kept else {
            return;
        };
        let own = Arc::clone(self);
        let run = move || {
            let end = loop {
                match reader.next() {
                    Ok(Some(block)) => {
                        if let Err(reason) = taker.take(transfer, &block) {
                            break Some(reason);
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(fail(&error)),
                }
            };
            let mut state = own.state.lock();
            state.is_given = true;
            if let Some(reason) = end.or(state.over.take()) {
                drop(state);
                taker.ended(reason);
            }
        };
        thread::Builder::new()
            .name("kept-memory".into())
            .spawn(run)
            .expect("a thread can be started");
    }
}

/// Takes what comes over the memory streams of a cold backup.
pub(super) struct MemoryKeeper {
    pub(super) memory: Arc<KeptMemory>,
    /// It cannot be kept, which ends the session. Says why.
    pub(super) fail: Box<dyn Fn(&SpoolError) -> String + Send + Sync>,
}

impl TakeBlocks for MemoryKeeper {
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String> {
        let memory = &self.memory;
        let mut state = memory.state.lock();
        if let Some(taker) = state.taker.clone() {
            drop(state);
            return taker.take(transfer, block);
        }
        if transfer < state.first {
            return Ok(());
        }
        let State { files, .. } = &mut *state;
        let kept = match files.entry(transfer) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut().put(block),
            std::collections::btree_map::Entry::Vacant(entry) => {
                memory_file(&memory.keep, transfer).and_then(|file| entry.insert(file).put(block))
            }
        };
        drop(state);
        memory.changed.notify_all();
        kept.map_err(|error| (self.fail)(&error))
    }

    fn ended(&self, reason: String) {
        let mut state = self.memory.state.lock();
        match state.taker.clone().filter(|_| state.is_given) {
            Some(taker) => {
                drop(state);
                taker.ended(reason);
            }
            None => {
                state.over.get_or_insert(reason);
                self.memory.changed.notify_all();
            }
        }
    }
}
