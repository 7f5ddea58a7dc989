//! The store of epochs, with the fences that follow its decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::waiting::{Waiting, wait_until};
use super::{Fence, NotYet, WaitLimit};
use crate::arbiter::{
    Answer, ClaimRequest, Claimant, EpochStore, Forgotten, Record, ServerNumber, StoreError, VmName,
};
use crate::fleet::Arbitrated;

/// An [`EpochStore`] whose wins are answered behind the fence.
#[derive(Debug)]
pub struct FencedStore {
    store: EpochStore,
    fences: BTreeMap<VmName, Arc<Fence>>,
    writer: Mutex<Writer>,
    left: Condvar,
}

/// Who writes to the store, which lets one in at a time and has no limit for how long the others wait.
/// There may be many of them: the hosts of all machines, after a failure of their network.
#[derive(Debug)]
struct Writer {
    is_in: bool,
    waiting: Waiting,
}

/// Why a record is still there.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// It is not there.
    #[error("nobody ever claimed {0}: `disk-server status` shows the machines that have a record")]
    Unknown(VmName),
    /// Somebody runs the machine.
    #[error(
        "{holder} runs {vm} in epoch {epoch}, as far as is known here: stop it there; if that host is \
         gone for good, start {vm} elsewhere with --force, and stop it"
    )]
    Held {
        /// The machine.
        vm: VmName,
        /// Its epoch.
        epoch: u64,
        /// Who runs it.
        holder: String,
    },
    /// The machine has disks here.
    #[error(
        "a disk of {0} is exported here: start the server without vm={0} in its --export options first"
    )]
    Exported(VmName),
    /// The store is not done with what came before.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why it is not noted that a backup has taken over.
#[derive(Debug, thiserror::Error)]
pub enum AcknowledgeError {
    /// The store is not done with what came before.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a claim came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// This is the answer.
    Answered(Answer),
    /// The claim was won, and must not be answered yet: writes of an earlier epoch are under way.
    /// No further ones will be.
    NotClear {
        /// The epoch won.
        epoch: u64,
        /// Why it was not waited for any longer.
        reason: NotYet,
    },
    /// It was not decided, because the store is not done with what came before.
    Undecided(NotYet),
}

impl FencedStore {
    /// A store without fences.
    #[must_use]
    pub fn new(store: EpochStore) -> FencedStore {
        FencedStore {
            store,
            fences: BTreeMap::new(),
            writer: Mutex::new(Writer {
                is_in: false,
                waiting: Waiting::unlimited(),
            }),
            left: Condvar::new(),
        }
    }

    /// The fence of a machine, which is made where it is missing.
    pub fn fence(&mut self, vm: &VmName) -> Arc<Fence> {
        let store = &self.store;
        let made = || Arc::new(Fence::new(vm.clone(), &store.read(vm)));
        Arc::clone(self.fences.entry(vm.clone()).or_insert_with(made))
    }

    /// Decides a claim. When this returns the answer that it was won, the decision is on stable
    /// storage, and no write of an earlier epoch can land any more.
    ///
    /// # Errors
    /// See [`EpochStore::claim`].
    pub fn claim(
        &self,
        vm: &VmName,
        request: &ClaimRequest,
        limit: WaitLimit<'_>,
    ) -> Result<Claimed, StoreError> {
        let turn = match self.take_turn(limit) {
            Ok(turn) => turn,
            Err(reason) => return Ok(Claimed::Undecided(reason)),
        };
        let answer = self.store.claim(vm, request)?;
        drop(turn);
        Ok(match (answer, self.fences.get(vm)) {
            (Answer::Won { epoch }, Some(fence)) => {
                let holder = request.holder();
                match fence.advance(epoch, &holder, limit) {
                    Ok(()) => Claimed::Answered(Answer::Won { epoch }),
                    Err(reason) => Claimed::NotClear { epoch, reason },
                }
            }
            (answer, _) => Claimed::Answered(answer),
        })
    }

    /// Notes that the backup of a view has taken over, and tells the record, which is on stable storage.
    ///
    /// # Errors
    /// See [`AcknowledgeError`].
    pub fn acknowledge(
        &self,
        vm: &VmName,
        (epoch, holder): (u64, &Claimant),
        limit: WaitLimit<'_>,
    ) -> Result<Record, AcknowledgeError> {
        let _turn = self.take_turn(limit)?;
        Ok(self.store.acknowledge(vm, epoch, holder)?)
    }

    fn take_turn(&self, limit: WaitLimit<'_>) -> Result<Turn<'_>, NotYet> {
        let mut writer = self.writer.lock();
        wait_until(
            &self.left,
            &mut writer,
            limit,
            |writer| &mut writer.waiting,
            |writer| !writer.is_in,
        )?;
        writer.is_in = true;
        Ok(Turn(self))
    }

    /// Removes the record of a machine that has stopped.
    ///
    /// # Errors
    /// See [`ForgetError`].
    pub fn forget(&self, vm: &VmName, limit: WaitLimit<'_>) -> Result<(), ForgetError> {
        if self.fences.contains_key(vm) {
            // Its fence has the epoch, which must not go back either.
            return Err(ForgetError::Exported(vm.clone()));
        }
        let _turn = self.take_turn(limit)?;
        match self.store.forget(vm)? {
            Forgotten::Done => Ok(()),
            Forgotten::Unknown => Err(ForgetError::Unknown(vm.clone())),
            Forgotten::Held(Record { epoch, holder, .. }) => Err(ForgetError::Held {
                vm: vm.clone(),
                epoch,
                holder: holder.map_or_else(|| "nobody".to_owned(), |h| h.as_str().to_owned()),
            }),
        }
    }

    /// See [`EpochStore::server_number`].
    #[must_use]
    pub fn server_number(&self) -> ServerNumber {
        self.store.server_number()
    }

    /// See [`EpochStore::read`].
    #[must_use]
    pub fn read(&self, vm: &VmName) -> Record {
        self.store.read(vm)
    }

    /// See [`EpochStore::list`].
    #[must_use]
    pub fn list(&self, after: Option<&VmName>, limit: usize) -> Vec<(VmName, Record)> {
        self.store.list(after, limit)
    }
}

impl Arbitrated for FencedStore {
    fn record(&self, vm: &VmName) -> Record {
        self.read(vm)
    }
}

/// The right to write to the store, given back when dropped.
struct Turn<'a>(&'a FencedStore);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.writer.lock().is_in = false;
        self.0.left.notify_all();
    }
}
