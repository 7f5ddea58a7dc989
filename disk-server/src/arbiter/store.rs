//! The durable store of epochs: a redb database that must never fall back behind an answer.
//!
//! Three things are done for that beyond a plain commit:
//!
//! - Every commit is *two-phase*. After a crash, redb's one-phase commit falls back to the commit
//!   before when the newest does not verify. That is right for a torn commit, and wrong for one
//!   that was answered and rotted later. A two-phase commit is refused as corrupt instead.
//! - Every decision is *settled* by a second commit, after its answer. A redb file has two commit
//!   slots and one bit that says which one counts; once both hold the decision, that bit may rot.
//! - Every open verifies every page; see [`CrashOnly`] for how.
//! - A state file appears under its name only when it is complete, and an existing one is never
//!   initialised. An empty or truncated file is an error, not a fresh start at epoch 0.

mod backend;

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};

use backend::{CrashOnly, Freeze};

use super::decision::{Answer, ClaimRequest, Record, decide};
use super::names::{Claimant, VmName};

/// The name of the state file in the state directory.
pub const STATE_FILE: &str = "arbiter.redb";

/// Virtual machine -> (epoch, holder). A machine that nobody claimed has no row.
const EPOCHS: TableDefinition<'_, &str, (u64, &str)> = TableDefinition::new("epochs");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
const FORMAT: u64 = 1;
const COMMITS_KEY: &str = "settling-commits";

/// So that a peer that makes up names cannot fill the disk.
const MAX_VMS: u64 = 10_000;
/// redb's default cache of 1 GiB suits larger databases.
const CACHE_BYTES: usize = 4 << 20;

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory is missing and could not be made.
    #[error("cannot make the state directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new state file could not be made.
    #[error("cannot make a state file in {}: is the directory writable?", path.display())]
    Create {
        /// The state directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is there and cannot be opened.
    #[error("cannot open the state file {} for reading and writing", path.display())]
    Access {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server has it open.
    #[error("the state file {} is in use by another disk-server; stop that one first, or give this one its own --state", path.display())]
    Locked {
        /// The state file.
        path: PathBuf,
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

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The database says so.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// It is a sound database of another kind or of another version.
    #[error("its format is {found:?}, this server writes format {FORMAT}")]
    Format {
        /// The format number in the file.
        found: Option<u64>,
    },
    /// A row breaks the rules of records.
    #[error("its record of {vm:?} is not valid: {what}")]
    Record {
        /// The row's key.
        vm: String,
        /// What is wrong.
        what: String,
    },
}

/// Why a claim could not be decided.
#[derive(Debug, thiserror::Error)]
pub enum ClaimStoreError {
    /// The store is full.
    #[error("the arbiter already keeps {MAX_VMS} virtual machines, which is its limit")]
    Full,
    /// The decision could not be read or made durable. The store is to be closed and opened again:
    /// what is on the disk is unknown until then.
    #[error("cannot store the decision")]
    Storage(#[source] Damage),
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the records")]
pub struct ReadStoreError(#[source] Damage);

impl<E: Into<redb::Error>> From<E> for ReadStoreError {
    fn from(error: E) -> Self {
        ReadStoreError(Damage::Database(error.into()))
    }
}

impl<E: Into<redb::Error>> From<E> for ClaimStoreError {
    fn from(error: E) -> Self {
        ClaimStoreError::Storage(Damage::Database(error.into()))
    }
}

/// The records of all virtual machines, on stable storage. Shared by all connections; redb lets one
/// writer in at a time, which makes a claim atomic.
#[derive(Debug)]
pub struct EpochStore {
    database: Database,
    freeze: Freeze,
}

impl Drop for EpochStore {
    fn drop(&mut self) {
        self.freeze.freeze();
    }
}

impl EpochStore {
    /// Opens the state in `directory`, which is made if it is missing, as is the state file in it.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged state file is refused and left alone.
    pub fn open(directory: &Path) -> Result<EpochStore, OpenError> {
        fs::create_dir_all(directory).map_err(|source| OpenError::MakeDirectory {
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(STATE_FILE);
        if !fs::exists(&path).map_err(|source| access(&path, source))? {
            create(directory, &path)?;
            log::warn!(
                "{} is new: all virtual machines are at epoch 0",
                path.display()
            );
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| access(&path, source))?;
        let length = file.metadata().map_err(|source| access(&path, source))?;
        if length.len() == 0 {
            return Err(corrupt(&path, Damage::Empty));
        }
        let opened = CrashOnly::new(file).and_then(|(file, freeze)| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .set_repair_callback(never_roll_back)
                .create_with_backend(file)?;
            Ok(EpochStore { database, freeze })
        });
        let store = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path: path.clone() },
            // Errors of the system have a number; redb tells damage by others that have none.
            DatabaseError::Storage(redb::StorageError::Io(source))
                if source.raw_os_error().is_some() =>
            {
                access(&path, source)
            }
            error => corrupt(&path, Damage::Database(error.into())),
        })?;
        store.check().map_err(|damage| corrupt(&path, damage))?;
        Ok(store)
    }

    /// Reads every record, then settles: the process may have died before it settled its last
    /// decision.
    fn check(&self) -> Result<(), Damage> {
        let found = self.format().map_err(|error| error.0)?;
        if found != Some(FORMAT) {
            return Err(Damage::Format { found });
        }
        self.list(None, usize::MAX).map_err(|error| error.0)?;
        Ok(self.commit_once_more()?)
    }

    fn format(&self) -> Result<Option<u64>, ReadStoreError> {
        let transaction = self.database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        Ok(meta.get(FORMAT_KEY)?.map(|value| value.value()))
    }

    /// Decides a claim. When this returns, the decision is on stable storage.
    ///
    /// The caller answers first and then calls [`EpochStore::settle`] if the decision was new,
    /// which the second value says.
    ///
    /// # Errors
    /// See [`ClaimStoreError`]. Nothing is known of the claim then; it may be repeated.
    pub fn claim(
        &self,
        vm: &VmName,
        request: &ClaimRequest,
    ) -> Result<(Answer, bool), ClaimStoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        let mut epochs = transaction.open_table(EPOCHS)?;
        let current = epochs
            .get(vm.as_str())?
            .map_or(Ok(Record::default()), |row| {
                record(vm.as_str(), row.value())
            })
            .map_err(ClaimStoreError::Storage)?;
        let (answer, new) = decide(&current, request);
        let Some(new) = new else {
            drop(epochs);
            transaction.abort()?;
            return Ok((answer, false));
        };
        if current.epoch == 0 && epochs.len()? >= MAX_VMS {
            return Err(ClaimStoreError::Full);
        }
        epochs.insert(vm.as_str(), (new.epoch, request.claimant.as_str()))?;
        drop(epochs);
        transaction.commit()?;
        Ok((answer, true))
    }

    /// Commits once more, so that both of the file's commit slots hold the last decision.
    ///
    /// # Errors
    /// See [`ClaimStoreError`]. The decision itself is durable all the same.
    pub fn settle(&self) -> Result<(), ClaimStoreError> {
        self.commit_once_more()
            .map_err(|error| ClaimStoreError::Storage(error.into()))
    }

    fn commit_once_more(&self) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        let mut meta = transaction.open_table(META)?;
        let commits = meta.get(COMMITS_KEY)?.map_or(0, |row| row.value());
        meta.insert(COMMITS_KEY, commits.wrapping_add(1))?;
        drop(meta);
        transaction.commit()?;
        Ok(())
    }

    /// The record of `vm`; the default one when nobody ever claimed.
    ///
    /// # Errors
    /// See [`ReadStoreError`].
    pub fn read(&self, vm: &VmName) -> Result<Record, ReadStoreError> {
        let transaction = self.database.begin_read()?;
        let epochs = transaction.open_table(EPOCHS)?;
        epochs
            .get(vm.as_str())?
            .map_or(Ok(Record::default()), |row| {
                record(vm.as_str(), row.value())
            })
            .map_err(ReadStoreError)
    }

    /// At most `limit` records in the order of their names, beginning behind `after`.
    ///
    /// # Errors
    /// See [`ReadStoreError`].
    pub fn list(
        &self,
        after: Option<&VmName>,
        limit: usize,
    ) -> Result<Vec<(VmName, Record)>, ReadStoreError> {
        let transaction = self.database.begin_read()?;
        let epochs = transaction.open_table(EPOCHS)?;
        let start = after.map_or(Bound::Unbounded, |vm| Bound::Excluded(vm.as_str()));
        let mut records = Vec::new();
        for row in epochs.range::<&str>((start, Bound::Unbounded))?.take(limit) {
            let (key, value) = row?;
            let vm = key.value();
            let record = record(vm, value.value()).map_err(ReadStoreError)?;
            let vm = vm.parse().map_err(|error| {
                ReadStoreError(Damage::Record {
                    vm: vm.to_owned(),
                    what: format!("{error}"),
                })
            })?;
            records.push((vm, record));
        }
        Ok(records)
    }
}

fn record(vm: &str, (epoch, holder): (u64, &str)) -> Result<Record, Damage> {
    let invalid = |what: String| Damage::Record {
        vm: vm.to_owned(),
        what,
    };
    if epoch == 0 {
        return Err(invalid("epoch 0 has no holder".to_owned()));
    }
    let holder: Claimant = holder
        .parse()
        .map_err(|error| invalid(format!("{error}")))?;
    Ok(Record {
        epoch,
        holder: Some(holder),
    })
}

fn access(path: &Path, source: io::Error) -> OpenError {
    OpenError::Access {
        path: path.to_owned(),
        source,
    }
}

fn corrupt(path: &Path, source: Damage) -> OpenError {
    OpenError::Corrupt {
        path: path.to_owned(),
        source,
    }
}

/// Makes a complete state file under another name and then gives it its own. A crash leaves no
/// half-made state file, and of two servers that start at once one creates and the other finds.
fn create(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let failed = |source: io::Error| OpenError::Create {
        path: directory.to_owned(),
        source,
    };
    let file = tempfile::Builder::new()
        .prefix("new-")
        .suffix(".redb")
        .tempfile_in(directory)
        .map_err(failed)?;
    let copy = file.as_file().try_clone().map_err(failed)?;
    initialise(copy).map_err(|error| failed(into_io(error)))?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(error.error)),
    }
    // The name is as durable as what it names: of the directory, and of its own name in its parent.
    for directory in [
        Some(directory),
        directory
            .canonicalize()
            .ok()
            .as_deref()
            .and_then(Path::parent),
    ]
    .into_iter()
    .flatten()
    {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

fn initialise(file: File) -> Result<(), redb::Error> {
    let (file, freeze) = CrashOnly::new(file)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(file)?;
    write_format(&database)?;
    freeze.freeze();
    Ok(())
}

/// redb rebuilds its free space at every open, and tells its progress. Only before it rolls back
/// to an older commit does it tell 0.3; see the module's documentation for why it must not.
fn never_roll_back(repair: &mut redb::RepairSession) {
    if (0.1..0.5).contains(&repair.progress()) {
        repair.abort();
    }
}

fn write_format(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META)?
        .insert(FORMAT_KEY, FORMAT)
        .map_err(redb::Error::from)?;
    transaction.open_table(EPOCHS)?;
    transaction.commit()?;
    Ok(())
}

fn into_io(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
