//! The store of epochs, with the fences that follow its decisions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::Fence;
use crate::arbiter::{
    Answer, ClaimRequest, ClaimStoreError, EpochStore, ReadStoreError, Record, VmName,
};

/// An [`EpochStore`] whose wins are answered behind the fence.
#[derive(Debug)]
pub struct FencedStore {
    store: EpochStore,
    fences: BTreeMap<VmName, Arc<Fence>>,
}

impl FencedStore {
    /// A store without fences.
    #[must_use]
    pub fn new(store: EpochStore) -> FencedStore {
        FencedStore {
            store,
            fences: BTreeMap::new(),
        }
    }

    /// The fence of a machine, which is made where it is missing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn fence(&mut self, vm: &VmName) -> Result<Arc<Fence>, ReadStoreError> {
        let fence = match self.fences.entry(vm.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let record = self.store.read(vm)?;
                entry.insert(Arc::new(Fence::new(vm.clone(), &record)))
            }
        };
        Ok(Arc::clone(fence))
    }

    /// Decides a claim. When this returns a win, the decision is on stable storage, and no write of
    /// an earlier epoch can land any more.
    ///
    /// # Errors
    /// See [`EpochStore::claim`].
    pub fn claim(
        &self,
        vm: &VmName,
        request: &ClaimRequest,
    ) -> Result<(Answer, bool), ClaimStoreError> {
        let decided = self.store.claim(vm, request)?;
        if let (Answer::Won { epoch }, Some(fence)) = (&decided.0, self.fences.get(vm)) {
            fence.advance(*epoch, &request.claimant);
        }
        Ok(decided)
    }

    /// See [`EpochStore::server_number`].
    ///
    /// # Errors
    /// See there.
    pub fn server_number(&self) -> Result<u64, ClaimStoreError> {
        self.store.server_number()
    }

    /// See [`EpochStore::settle`].
    ///
    /// # Errors
    /// See there.
    pub fn settle(&self) -> Result<(), ClaimStoreError> {
        self.store.settle()
    }

    /// See [`EpochStore::read`].
    ///
    /// # Errors
    /// See there.
    pub fn read(&self, vm: &VmName) -> Result<Record, ReadStoreError> {
        self.store.read(vm)
    }

    /// See [`EpochStore::list`].
    ///
    /// # Errors
    /// See there.
    pub fn list(
        &self,
        after: Option<&VmName>,
        limit: usize,
    ) -> Result<Vec<(VmName, Record)>, ReadStoreError> {
        self.store.list(after, limit)
    }
}
