//! The durable store of epochs, which never falls back behind an answer.
//!
//! The records of all machines are a few hundred bytes each, and change when hosts fail. So they are
//! in memory, and every decision writes all of them, as [a state](crate::state) that changes as a whole. A
//! decision that could not be stored is answered as that: nobody may rely on it, and the next attempt begins
//! from the records that were answered last.
//!
//! A damaged file is no fresh start at epoch 0: the old contents cannot come back from anywhere.

mod error;
mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

pub use error::StoreError;

use super::decision::{Answer, ClaimRequest, Record, acknowledge, decide};
use super::names::{Claimant, ServerNumber, VmName};
use crate::random;
use crate::state::{self, Folder, OpenStateError, StateDirectory};
use format::{MAX_VMS, State};

/// The name of the state file in the state directory.
pub const STATE_FILE: &str = "arbiter.state";

/// What is said of a damaged one.
const REMEDY: &str = ", because epochs could go back; see \"When the state is damaged\" in \
                      docs/arbiter.md";

/// What became of a record that was to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forgotten {
    /// It is gone, which is on stable storage.
    Done,
    /// There was none.
    Unknown,
    /// It is still there: somebody runs the machine.
    Held(Record),
}

/// The records of all virtual machines, on stable storage. Shared by all connections.
#[derive(Debug)]
pub struct EpochStore {
    /// What was answered last. It changes when the change is on stable storage.
    state: Mutex<State>,
    /// One decision at a time, from what it bases on to the disk.
    folder: Mutex<Box<dyn Folder>>,
}

impl EpochStore {
    /// Opens the state in `directory`, where it is made if it is missing.
    ///
    /// # Errors
    /// See [`OpenStateError`]. A damaged state file is refused and left alone.
    pub fn open(directory: &Arc<StateDirectory>) -> Result<EpochStore, OpenStateError> {
        EpochStore::load(Box::new(directory.file(STATE_FILE)), directory.path())
    }

    fn load(mut file: Box<dyn Folder>, directory: &Path) -> Result<EpochStore, OpenStateError> {
        let path = directory.join(STATE_FILE);
        let state = match state::load(&mut *file, &path, format::decode, REMEDY)? {
            Some(state) => state,
            None => {
                let state = fresh(&mut *file).map_err(|source| OpenStateError::Create {
                    path: directory.to_owned(),
                    source,
                })?;
                log::warn!(
                    "{} is new: all virtual machines are at epoch 0",
                    path.display()
                );
                state
            }
        };
        Ok(EpochStore {
            state: Mutex::new(state),
            folder: Mutex::new(file),
        })
    }

    /// The number of this server, which no other one has: as long as the state is kept, the same.
    #[must_use]
    pub fn server_number(&self) -> ServerNumber {
        self.state.lock().server
    }

    /// Decides a claim. When this returns, the decision is on stable storage.
    ///
    /// # Errors
    /// See [`StoreError`]. The claim may be repeated.
    pub fn claim(&self, vm: &VmName, request: &ClaimRequest) -> Result<Answer, StoreError> {
        self.change(|state| {
            let (answer, new) = decide(&state.record(vm), request);
            let Some(new) = new else {
                return Ok((answer, false));
            };
            if !state.records.contains_key(vm) && state.records.len() >= MAX_VMS {
                return Err(StoreError::Full);
            }
            state.records.insert(vm.clone(), new);
            Ok((answer, true))
        })
    }

    /// Notes that the backup of the view `epoch` of `holder` has taken over, unless that is not the view
    /// any more. The record, which is on stable storage.
    ///
    /// # Errors
    /// See [`StoreError`]. It may be repeated.
    pub fn acknowledge(
        &self,
        vm: &VmName,
        epoch: u64,
        holder: &Claimant,
    ) -> Result<Record, StoreError> {
        self.change(|state| {
            let current = state.record(vm);
            match acknowledge(&current, epoch, holder) {
                Some(new) => {
                    state.records.insert(vm.clone(), new.clone());
                    Ok((new, true))
                }
                None => Ok((current, false)),
            }
        })
    }

    /// Removes the record of a machine that has stopped. None of its epochs, and none before
    /// them, is ever given again, under whatever name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget(&self, vm: &VmName) -> Result<Forgotten, StoreError> {
        self.change(|state| {
            let Some(held) = state.records.get(vm) else {
                return Ok((Forgotten::Unknown, false));
            };
            if !held.is_stopped() {
                return Ok((Forgotten::Held(held.clone()), false));
            }
            state.floor = state.floor.max(held.epoch);
            state.records.remove(vm);
            Ok((Forgotten::Done, true))
        })
    }

    /// Makes a change, and stores it if there was one.
    fn change<T>(
        &self,
        make: impl FnOnce(&mut State) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        let mut folder = self.folder.lock();
        let mut state = self.state.lock().clone();
        let (outcome, changed) = make(&mut state)?;
        if changed {
            state::replace(&mut **folder, &format::encode(&state)).map_err(StoreError::Storage)?;
            *self.state.lock() = state;
        }
        Ok(outcome)
    }

    /// The record of `vm`, without a holder when nobody ever claimed.
    #[must_use]
    pub fn read(&self, vm: &VmName) -> Record {
        self.state.lock().record(vm)
    }

    /// At most `limit` records in the order of their names, beginning behind `after`.
    #[must_use]
    pub fn list(&self, after: Option<&VmName>, limit: usize) -> Vec<(VmName, Record)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state
            .lock()
            .records
            .range::<VmName, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(vm, held)| (vm.clone(), held.clone()))
            .collect()
    }
}

/// Writes the state of a server that never had one.
fn fresh(folder: &mut dyn Folder) -> io::Result<State> {
    let state = State {
        server: ServerNumber(random::nonce()? as u64),
        floor: 0,
        records: BTreeMap::new(),
    };
    state::replace(folder, &format::encode(&state))?;
    Ok(state)
}
