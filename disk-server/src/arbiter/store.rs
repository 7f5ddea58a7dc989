//! The durable store of epochs, which never falls back behind an answer.
//!
//! The records of all machines are a few hundred bytes each, and change when hosts fail. So they are
//! in memory, and every decision writes all of them to a new file, which takes the place of the old
//! one:
//!
//! ```text
//!     write new ── fsync new ── rename new to its name ── fsync the directory ── answer
//! ```
//!
//! Whenever the power goes, the name stands for the file before or the file behind the decision,
//! whole, and from the answer on for the latter. An error before the end leaves open which, and is
//! answered as one: nobody may rely on the decision, and the next attempt begins from the records that
//! were answered last. It writes another file, so that it need not care what became of the first.
//!
//! A checksum covers every byte. An empty, cut or changed file is an error, not a fresh start at epoch
//! 0: the old contents cannot come back from anywhere.

mod folder;
mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use folder::STATE_FILE;
pub use format::Damage;

use super::decision::{Answer, ClaimRequest, Record, decide};
use super::names::{Claimant, ServerNumber, VmName};
use crate::random;
use folder::{Folder, StateFolder};
use format::Unusable;

/// So that a peer that makes up names cannot fill the disk.
const MAX_VMS: usize = 10_000;

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStateError {
    /// The state directory is missing and could not be made.
    #[error("cannot make the state directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new state file, or the lock beside it, could not be made.
    #[error("cannot make a state file in {}{}", path.display(), hint(source))]
    Create {
        /// The state directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or file system did not do what was asked of it, which says nothing of the state.
    #[error("cannot use the state file {}{}; nothing is lost, start the server again when that is mended", path.display(), hint(source))]
    Access {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server has it open.
    #[error("the state is in use by another disk-server, which holds {}; stop that one first, or give this one its own --state", path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// An earlier version of the server kept its state there.
    #[error("{} is the state of an earlier version of disk-server, which this one cannot read; see \"The state of an earlier version\" in docs/arbiter.md", path.display())]
    Earlier {
        /// The earlier version's file.
        path: PathBuf,
    },
    /// A later version of the server keeps its state there.
    #[error("the state file {} has version {found} of the format, which this disk-server does not know: start the later one that wrote it", path.display())]
    Later {
        /// The state file.
        path: PathBuf,
        /// The version of its format.
        found: u64,
    },
    /// The state file is damaged. Epochs could go back if it were used.
    #[error("the state file {} is damaged and is not used, because epochs could go back; see \"When the state is damaged\" in docs/arbiter.md", path.display())]
    Corrupt {
        /// The state file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: Damage,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room on its file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": its file system is mounted read-only",
        io::ErrorKind::PermissionDenied => ": is the directory writable for this user?",
        _ => "",
    }
}

/// Why a decision could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is full.
    #[error("the arbiter already keeps {MAX_VMS} virtual machines, which is its limit")]
    Full,
    /// The decision could not be made durable, and does not count. It may be tried again.
    #[error("cannot store the decision{}", hint(.0))]
    Storage(#[source] io::Error),
}

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

/// What must survive the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// A random number, drawn when the first server has the state.
    server: ServerNumber,
    /// The highest epoch of the machines that were forgotten. All that have no record begin there, so
    /// that no epoch of a forgotten one is given again when its name comes back.
    floor: u64,
    /// A machine that nobody claimed has none.
    records: BTreeMap<VmName, Held>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    epoch: u64,
    holder: Claimant,
}

impl State {
    fn record(&self, vm: &VmName) -> Record {
        self.records.get(vm).cloned().map_or(
            Record {
                epoch: self.floor,
                holder: None,
            },
            Record::from,
        )
    }
}

impl From<Held> for Record {
    fn from(Held { epoch, holder }: Held) -> Record {
        let holder = Some(holder);
        Record { epoch, holder }
    }
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
    /// Opens the state in `directory`, which is made if it is missing, as is the state file in it.
    ///
    /// # Errors
    /// See [`OpenStateError`]. A damaged state file is refused and left alone.
    pub fn open(directory: &Path) -> Result<EpochStore, OpenStateError> {
        let folder = StateFolder::open(directory)?;
        EpochStore::load(Box::new(folder), directory)
    }

    fn load(mut folder: Box<dyn Folder>, directory: &Path) -> Result<EpochStore, OpenStateError> {
        let path = directory.join(STATE_FILE);
        let access = |source| OpenStateError::Access {
            path: path.clone(),
            source,
        };
        let state = match folder.read().map_err(access)? {
            Some(bytes) => {
                let state = format::decode(&bytes).map_err(|unusable| {
                    let path = path.clone();
                    match unusable {
                        Unusable::Later(found) => OpenStateError::Later { path, found },
                        Unusable::Damaged(source) => OpenStateError::Corrupt { path, source },
                    }
                })?;
                // The process before may have died, and somebody may have copied the file: what is
                // answered from it is to stay.
                folder.sync().map_err(access)?;
                state
            }
            None => {
                let state = fresh(&mut *folder).map_err(|source| OpenStateError::Create {
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
            folder: Mutex::new(folder),
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
            let Some(Record { epoch, .. }) = new else {
                return Ok((answer, false));
            };
            if !state.records.contains_key(vm) && state.records.len() >= MAX_VMS {
                return Err(StoreError::Full);
            }
            let holder = request.claimant.clone();
            state.records.insert(vm.clone(), Held { epoch, holder });
            Ok((answer, true))
        })
    }

    /// Removes the record of a machine whose holder is `stopped`. None of its epochs, and none before
    /// them, is ever given again, under whatever name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget(&self, vm: &VmName, stopped: &str) -> Result<Forgotten, StoreError> {
        self.change(|state| {
            let Some(held) = state.records.get(vm) else {
                return Ok((Forgotten::Unknown, false));
            };
            if held.holder.as_str() != stopped {
                return Ok((Forgotten::Held(held.clone().into()), false));
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
            replace(&mut **folder, &state).map_err(StoreError::Storage)?;
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
            .map(|(vm, held)| (vm.clone(), held.clone().into()))
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
    replace(folder, &state)?;
    Ok(state)
}

fn replace(folder: &mut dyn Folder, state: &State) -> io::Result<()> {
    folder.write_new(&format::encode(state))?;
    folder.rename_new()?;
    folder.sync()
}
