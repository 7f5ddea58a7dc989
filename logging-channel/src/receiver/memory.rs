//! The memory that comes beside the log, of a cold backup.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;

use confinement::Calls;
use parking_lot::{Condvar, Mutex};

use super::spool::{MemoryFile, Spool, SpoolError, memory_file};
use crate::memory::{PutPage, TakeBlocks, TakeMemory, is_renewal};
use crate::settings::Keep;

/// The memory that comes beside the log: on the disk until a replay begins, and to the replay then.
pub(super) struct KeptMemory {
    keep: Keep,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u32, Arc<MemoryFile>>,
    /// No transfer before this one is wanted.
    first: u32,
    taker: Option<Arc<dyn TakeMemory>>,
    /// What is on the disk is given to it.
    is_given: bool,
    /// Streams have ended, for this reason.
    over: Option<String>,
}

impl State {
    fn has(&self, transfer: u32, blocks: u64) -> bool {
        let file = self.files.get(&transfer);
        file.map_or(0, |file| file.blocks()) >= blocks
    }
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
        let has = |state: &State| state.has(transfer, blocks) || state.taker.is_some();
        let mut state = self.state.lock();
        let lacks = |state: &mut State| !has(state) && state.over.is_none();
        self.changed.wait_while(&mut state, lacks);
        has(&state)
    }

    /// Whether so many blocks of a transfer are there.
    pub(super) fn has(&self, transfer: u32, blocks: u64) -> bool {
        self.state.lock().has(transfer, blocks)
    }

    fn file(&self, transfer: u32) -> Option<Arc<MemoryFile>> {
        self.state.lock().files.get(&transfer).cloned()
    }

    /// Waits until a transfer is on the disk.
    pub(super) fn sync(&self, transfer: u32) -> Result<(), SpoolError> {
        let file = self.file(transfer);
        file.map_or(Ok(()), |file| file.sync())
    }

    /// How many bytes there are of a transfer.
    pub(super) fn bytes(&self, transfer: u32) -> u64 {
        self.file(transfer).map_or(0, |file| file.bytes())
    }

    /// Forgets what no replay needs that begins with a state that is complete, or may be.
    pub(super) fn forget_but(&self, spool: &Spool) {
        let needed = spool.generations().complete().memory.0;
        let old = {
            let mut state = self.state.lock();
            if state.taker.is_some() {
                return;
            }
            state.first = needed;
            let later = state.files.split_off(&needed);
            std::mem::replace(&mut state.files, later)
        };
        old.keys()
            .for_each(|transfer| spool.forget_memory(*transfer));
    }

    /// Gives the memory of a transfer that is complete to `taker`, and what comes from now on.
    ///
    /// # Errors
    /// [`io::Error`], if the host has no room for a thread.
    pub(super) fn give(
        self: &Arc<Self>,
        transfer: u32,
        taker: Arc<dyn TakeMemory>,
        fail: impl Fn(&SpoolError) -> String + Send + 'static,
    ) -> io::Result<()> {
        let kept = {
            let mut state = self.state.lock();
            let kept = state.files.get(&transfer).cloned();
            state.taker = Some(taker.clone());
            state.is_given = kept.is_none();
            self.changed.notify_all();
            kept
        };
        let Some(file) = kept else {
            let over = self.state.lock().over.take();
            if let Some(reason) = over {
                taker.ended(reason);
            }
            return Ok(());
        };
        let own = Arc::clone(self);
        let run = move || {
            let read = |put: PutPage<'_>| match file.read(put) {
                Ok(put) => put,
                Err(error) => Err(fail(&error)),
            };
            let end = taker.take_all(transfer, &read).err();
            let mut state = own.state.lock();
            state.is_given = true;
            if let Some(reason) = end.or(state.over.take()) {
                drop(state);
                taker.ended(reason);
            }
        };
        let named = thread::Builder::new().name("kept-memory".into());
        confinement::spawn(named, &[Calls::Files, Calls::Storage], run)?;
        Ok(())
    }
}

/// Takes what comes over the memory streams of a cold backup.
pub(super) struct MemoryKeeper {
    pub(super) memory: Arc<KeptMemory>,
    /// It cannot be kept, which ends the session. Says why.
    pub(super) fail: Box<dyn Fn(&SpoolError) -> String + Send + Sync>,
}

impl MemoryKeeper {
    /// The file of a transfer, unless nobody wants that.
    fn file(&self, transfer: u32) -> Result<Option<Arc<MemoryFile>>, SpoolError> {
        let memory = &self.memory;
        let mut state = memory.state.lock();
        if transfer < state.first {
            return Ok(None);
        }
        if let Some(file) = state.files.get(&transfer) {
            return Ok(Some(Arc::clone(file)));
        }
        let file = Arc::new(memory_file(&memory.keep, transfer)?);
        state.files.insert(transfer, Arc::clone(&file));
        Ok(Some(file))
    }
}

impl TakeBlocks for MemoryKeeper {
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String> {
        let taker = self.memory.state.lock().taker.clone();
        match taker {
            // The replay follows the log through it.
            Some(_) if is_renewal(transfer) => return Ok(()),
            Some(taker) => return taker.take(transfer, block),
            None => {}
        }
        let kept = self
            .file(transfer)
            .and_then(|file| file.map_or(Ok(()), |file| file.put(block)));
        // Behind whoever looks, and is about to wait.
        drop(self.memory.state.lock());
        self.memory.changed.notify_all();
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
