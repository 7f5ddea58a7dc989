//! Exports: storage with a name, and who may do what with it.
//!
//! An [`Export`] may belong to a virtual machine. Then its [`Fence`] decides about every write:
//! those of the host that runs the machine, through connections opened as `NAME@VM:EPOCH`, and
//! those of everybody else while the machine does not run. Of the connections of one client that says
//! who it is (`NAME@~TAG`), only the newest may write.

mod access;
mod counters;
mod spec;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::arbiter::protocol::{ExportRecord, Owner};
use crate::arbiter::{Claimant, VmName};
use crate::ending::{Ending, RunError};
use crate::fence::{Clients, Fence, FencedStore};
use crate::logging::Limited;
use crate::nbd::ExportName;
use crate::random;
use crate::storage::{FlushError, Flushed, Storage};
use counters::Counters;

pub(crate) use counters::{LeftBehind, Operation, Operations};

pub use access::{Access, ModifyError, OpenExportError};
pub use spec::{ExportSpec, SpecError};

/// The most of a path that is told, in bytes. A line of the arbiter's protocol has to hold it, with
/// every character escaped.
const PATH_TOLD: usize = 1024;

/// An export that nobody is connected to yet.
#[derive(Debug)]
pub struct Export {
    name: ExportName,
    vm: Option<VmName>,
    read_only: bool,
    path: Option<String>,
    /// The file system that an image file is on.
    file_system: Option<u64>,
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
            path: None,
            file_system: None,
            storage: Flushed::new(storage),
        }
    }

    /// The same export, which tells people where it is kept.
    #[must_use]
    pub fn kept_in(self, path: &Path) -> Export {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        Export {
            path: Some(told(path)),
            file_system: metadata.map(|metadata| metadata.dev()),
            ..self
        }
    }

    /// Whether what clients write to it goes to the file system that a directory is on.
    pub(crate) fn shares_file_system(&self, directory: &Path) -> bool {
        let Ok(directory) = fs::metadata(directory) else {
            return false;
        };
        !self.read_only && self.file_system == Some(directory.dev())
    }

    /// What clients call it.
    #[must_use]
    pub fn name(&self) -> &ExportName {
        &self.name
    }
}

/// A path for people and for one line: without control characters, and of a long one the end.
fn told(path: &Path) -> String {
    let clean = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let text: String = path.to_string_lossy().chars().map(clean).collect();
    if text.len() <= PATH_TOLD {
        return text;
    }
    let from = (text.len() - PATH_TOLD..text.len()).find(|at| text.is_char_boundary(*at));
    format!("…{}", &text[from.unwrap_or(text.len())..])
}

/// An export with its fence.
#[derive(Debug)]
pub(crate) struct Fenced {
    export: Export,
    /// What it is called on whatever way it is reached: the server's number, and its name here.
    identity: String,
    /// Of this start of the server.
    boot: u64,
    fence: Option<Arc<Fence>>,
    clients: Arc<Clients>,
    counters: Arc<Counters>,
    ending: Ending,
    /// What is told of it in the log: requests that its storage failed, and those that had no right.
    failures: Limited,
    refusals: Limited,
}

impl Fenced {
    /// What it is called on whatever way it is reached, and what no other export is called.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Brings everything that was written before to stable storage. A failure ends the server: see
    /// [`Flushed`].
    fn flush(&self) -> Result<(), FlushError> {
        self.export.storage.flush().inspect_err(|error| {
            self.ending.fail(RunError::Flush {
                export: self.export.name.clone(),
                source: error.clone(),
            });
        })
    }

    /// The number of this start of the server, which no other start has.
    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    /// The machine that it belongs to, and who runs that.
    pub(crate) fn owner(&self) -> Option<(&VmName, Option<Claimant>)> {
        let fence = self.fence.as_ref()?;
        Some((fence.vm(), fence.holder()))
    }

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

    /// What `disk-server status` tells.
    fn record(&self) -> ExportRecord {
        let owner = self.fence.as_ref().map(|fence| {
            let (epoch, runs) = fence.epoch();
            let vm = fence.vm().clone();
            Owner { vm, epoch, runs }
        });
        ExportRecord {
            name: self.export.name.clone(),
            path: self.export.path.clone(),
            size: self.size(),
            read_only: self.export.read_only,
            owner,
            connections: self.counters.connections(),
            refused_requests: self.counters.refused_requests(),
            refused_connections: self.counters.refused_connections(),
        }
    }

    /// What was carried out of this kind since the server started.
    pub(crate) fn operations(&self, operation: Operation) -> &Operations {
        self.counters.operations(operation)
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
    #[error("cannot draw a number for this start of the server")]
    Boot(#[source] io::Error),
}

impl Exports {
    /// Exports whose fences follow `store`. Those that fail for good tell `ending`.
    pub(crate) fn new(
        exports: Vec<Export>,
        store: &mut FencedStore,
        ending: &Ending,
    ) -> Result<Exports, ExportsError> {
        let server = store.server_number();
        let boot = random::nonce().map_err(ExportsError::Boot)? as u64;
        let mut named = BTreeMap::new();
        for export in exports {
            let name = export.name.clone();
            let fence = export.vm.as_ref().map(|vm| store.fence(vm));
            let fenced = Arc::new(Fenced {
                identity: format!("{server}/{name}"),
                boot,
                export,
                fence,
                clients: Arc::default(),
                counters: Arc::default(),
                ending: ending.clone(),
                failures: Limited::new(),
                refusals: Limited::new(),
            });
            if named.insert(name.clone(), fenced).is_some() {
                return Err(ExportsError::Twice(name));
            }
        }
        Ok(Exports(named))
    }

    pub(crate) fn get(&self, name: &ExportName) -> Option<&Arc<Fenced>> {
        self.0.get(name)
    }

    /// The export of a server that has just one.
    pub(crate) fn only(&self) -> Option<&ExportName> {
        let mut names = self.0.keys();
        names.next().filter(|_| names.next().is_none())
    }

    /// What there is to tell of the exports behind a name, in the order of names.
    pub(crate) fn records(&self, after: Option<&ExportName>) -> impl Iterator<Item = ExportRecord> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.0
            .range::<ExportName, _>((from, Bound::Unbounded))
            .map(|(_, export)| export.record())
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ExportName, &Arc<Fenced>)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_in_one_line_of_bounded_length() {
        assert_eq!(told(Path::new("/srv/db.img")), "/srv/db.img");
        assert_eq!(told(Path::new("/a\nb")), "/a\u{fffd}b");
        for character in ["a", "\"", "é", "€"] {
            let long = told(Path::new(&format!("{}/end", character.repeat(3000))));
            assert!(long.starts_with('…') && long.ends_with("/end"), "{long}");
            assert!(long.len() <= PATH_TOLD + '…'.len_utf8());
        }
    }
}
