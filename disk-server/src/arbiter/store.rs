//! The durable store of epochs: a redb database that must never fall back behind an answer.
//!
//! Some things are done for that beyond a plain commit:
//!
//! - Every commit is *two-phase*. After a crash, redb's one-phase commit falls back to the commit
//!   before when the newest does not verify. That is right for a torn commit, and wrong for one
//!   that was answered and rotted later. A two-phase commit is refused as corrupt instead.
//! - Every decision is *settled* by a second commit, after its answer. A redb file has two commit
//!   slots and one bit that says which one counts; once both hold the decision, that bit may rot.
//! - Every open verifies every page and every record before anything is written.
//! - A state file appears under its name only when it is complete, and an existing one is never
//!   initialised. An empty or truncated file is an error, not a fresh start at epoch 0.

mod opening;

use std::fs::File;
use std::ops::Bound;

use redb::{
    Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata, TableDefinition,
};

pub use opening::{Damage, OpenError};

use super::decision::{Answer, ClaimRequest, Record, decide};
use super::names::{Claimant, ServerNumber, VmName};
use crate::random;

/// The name of the state file in the state directory.
pub const STATE_FILE: &str = "arbiter.redb";

/// Virtual machine -> (epoch, holder). A machine that nobody claimed has no row.
const EPOCHS: TableDefinition<'_, &str, (u64, &str)> = TableDefinition::new("epochs");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
/// A random number, drawn when the first server has the state.
const SERVER_KEY: &str = "server";
const FORMAT: u64 = 1;
/// The format of a state with a [`FLOOR_KEY`]. Servers that know nothing of it refuse the state,
/// instead of letting epochs go back.
const FORMAT_WITH_FLOOR: u64 = 2;
/// The highest epoch of the machines that were forgotten. All that have no record begin there, so
/// that no epoch of a forgotten one is given again when its name comes back.
const FLOOR_KEY: &str = "floor";
const COMMITS_KEY: &str = "settling-commits";

/// So that a peer that makes up names cannot fill the disk.
const MAX_VMS: u64 = 10_000;

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
    /// Held as long as the store is open.
    _lock: Option<File>,
}

impl EpochStore {
    fn format(&self) -> Result<Option<u64>, ReadStoreError> {
        let transaction = self.database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        Ok(meta.get(FORMAT_KEY)?.map(|value| value.value()))
    }

    /// The number of this server, which no other one has: as long as the state is kept, the same.
    ///
    /// # Errors
    /// See [`ClaimStoreError`].
    pub fn server_number(&self) -> Result<ServerNumber, ClaimStoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        let mut meta = transaction.open_table(META)?;
        let known = meta.get(SERVER_KEY)?.map(|row| row.value());
        if let Some(known) = known {
            drop(meta);
            transaction.abort()?;
            return Ok(ServerNumber(known));
        }
        let drawn = random::nonce().map_err(redb::Error::Io)? as u64;
        meta.insert(SERVER_KEY, drawn)?;
        drop(meta);
        transaction.commit()?;
        self.settle()?;
        Ok(ServerNumber(drawn))
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
        let floor = floor(&transaction.open_table(META)?)?;
        let mut epochs = transaction.open_table(EPOCHS)?;
        let known = epochs
            .get(vm.as_str())?
            .map(|row| record(vm.as_str(), row.value()))
            .transpose()
            .map_err(ClaimStoreError::Storage)?;
        let is_new = known.is_none();
        let current = known.unwrap_or_else(|| unclaimed(floor));
        let (answer, new) = decide(&current, request);
        let Some(new) = new else {
            drop(epochs);
            transaction.abort()?;
            return Ok((answer, false));
        };
        if is_new && epochs.len()? >= MAX_VMS {
            return Err(ClaimStoreError::Full);
        }
        epochs.insert(vm.as_str(), (new.epoch, request.claimant.as_str()))?;
        drop(epochs);
        transaction.commit()?;
        Ok((answer, true))
    }

    /// Removes the record of a machine whose holder is `stopped`. None of its epochs, and none before
    /// them, is ever given again, under whatever name.
    ///
    /// As after a claim, [`EpochStore::settle`] is to be called when it is done.
    ///
    /// # Errors
    /// See [`ClaimStoreError`].
    pub fn forget(&self, vm: &VmName, stopped: &str) -> Result<Forgotten, ClaimStoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        let mut meta = transaction.open_table(META)?;
        let mut epochs = transaction.open_table(EPOCHS)?;
        let known = epochs
            .get(vm.as_str())?
            .map(|row| record(vm.as_str(), row.value()))
            .transpose()
            .map_err(ClaimStoreError::Storage)?;
        let kept = match known {
            None => Some(Forgotten::Unknown),
            Some(held) if held.holder.as_ref().is_none_or(|h| h.as_str() != stopped) => {
                Some(Forgotten::Held(held))
            }
            Some(Record { epoch, .. }) => {
                let floor = floor(&meta)?.max(epoch);
                meta.insert(FLOOR_KEY, floor)?;
                meta.insert(FORMAT_KEY, FORMAT_WITH_FLOOR)?;
                epochs.remove(vm.as_str())?;
                None
            }
        };
        drop((meta, epochs));
        if let Some(kept) = kept {
            transaction.abort()?;
            return Ok(kept);
        }
        transaction.commit()?;
        Ok(Forgotten::Done)
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

    /// The record of `vm`, without a holder when nobody ever claimed.
    ///
    /// # Errors
    /// See [`ReadStoreError`].
    pub fn read(&self, vm: &VmName) -> Result<Record, ReadStoreError> {
        let transaction = self.database.begin_read()?;
        let floor = floor(&transaction.open_table(META)?)?;
        let epochs = transaction.open_table(EPOCHS)?;
        epochs
            .get(vm.as_str())?
            .map_or(Ok(unclaimed(floor)), |row| record(vm.as_str(), row.value()))
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

/// Where machines without a record begin.
fn floor(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::StorageError> {
    Ok(meta.get(FLOOR_KEY)?.map_or(0, |row| row.value()))
}

/// The record of a machine that nobody claimed.
fn unclaimed(floor: u64) -> Record {
    Record {
        epoch: floor,
        holder: None,
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

#[cfg(test)]
mod tests;
