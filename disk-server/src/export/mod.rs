//! Exports: storage with a name, and who may do what with it.
//!
//! An [`Export`] may belong to a virtual machine. Then its [`Fence`] decides about every write:
//! those of the host that runs the machine, through connections opened as `NAME@VM:EPOCH`, and
//! those of everybody else while the machine does not run.

mod access;
mod spec;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::arbiter::{ReadStoreError, VmName};
use crate::fence::{Fence, FencedStore};
use crate::nbd::ExportName;
use crate::storage::{Flushed, Storage};

pub use access::{Access, ModifyError, OpenError};
pub use spec::{ExportSpec, SpecError};

/// An export that nobody is connected to yet.
#[derive(Debug)]
pub struct Export {
    name: ExportName,
    vm: Option<VmName>,
    read_only: bool,
    storage: Flushed,
}

impl Export {
    /// An export of a storage; `vm` is the machine that owns it.
    #[must_use]
    pub fn new(
        name: ExportName,
        vm: Option<VmName>,
        read_only: bool,
        storage: Box<dyn Storage>,
    ) -> Export {
        Export {
            name,
            vm,
            read_only,
            storage: Flushed::new(storage),
        }
    }

    /// What clients call it.
    #[must_use]
    pub fn name(&self) -> &ExportName {
        &self.name
    }
}

/// An export with its fence.
#[derive(Debug)]
pub(crate) struct Fenced {
    export: Export,
    fence: Option<Arc<Fence>>,
}

impl Fenced {
    /// A line for people who list the exports.
    pub(crate) fn description(&self) -> String {
        let mut text = match &self.fence {
            None => String::new(),
            Some(fence) => match fence.epoch() {
                (epoch, true) => format!("{} runs on it in epoch {epoch}", fence.vm()),
                (_, false) => format!("of {}, which does not run", fence.vm()),
            },
        };
        if self.export.read_only {
            text.push_str(if text.is_empty() { "" } else { "; " });
            text.push_str("read-only");
        }
        text
    }

    pub(crate) fn size(&self) -> u64 {
        self.export.storage.storage().size()
    }
}

/// The exports of a server, by name.
#[derive(Debug, Default)]
pub(crate) struct Exports(BTreeMap<ExportName, Arc<Fenced>>);

/// Two exports have the same name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportsError {
    #[error("two exports are called {0}; every --export needs a name of its own")]
    Twice(ExportName),
    #[error("cannot read the epochs of the exports' machines")]
    Store(#[from] ReadStoreError),
}

impl Exports {
    /// Exports whose fences follow `store`.
    pub(crate) fn new(
        exports: Vec<Export>,
        store: &mut FencedStore,
    ) -> Result<Exports, ExportsError> {
        let mut named = BTreeMap::new();
        for export in exports {
            let name = export.name.clone();
            let fence = export.vm.as_ref().map(|vm| store.fence(vm)).transpose()?;
            let fenced = Arc::new(Fenced { export, fence });
            if named.insert(name.clone(), fenced).is_some() {
                return Err(ExportsError::Twice(name));
            }
        }
        Ok(Exports(named))
    }

    pub(crate) fn get(&self, name: &ExportName) -> Option<&Arc<Fenced>> {
        self.0.get(name)
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ExportName, &Arc<Fenced>)> {
        self.0.iter()
    }
}
