//! What all threads of a confined process have in common.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::Sender;

use landlock::{BitFlags, PathFd};
use parking_lot::Mutex;
use rustix::thread::{CapabilitySet, CpuSet, sched_getaffinity};

use crate::capabilities;
use crate::reach::Reach;

/// This process, if it is confined.
pub(crate) static PROCESS: OnceLock<Process> = OnceLock::new();

/// Starts a thread, and says how that went to whoever waits for it.
pub(crate) type Start = Box<dyn FnOnce() + Send>;

/// What all threads of a confined process have in common.
#[derive(Debug)]
pub(crate) struct Process {
    later: Reach,
    /// The capabilities that it keeps.
    kept: CapabilitySet,
    /// The files that can be reached.
    files: Mutex<Vec<PathFd>>,
    /// On which it began.
    pub(crate) processors: Option<CpuSet>,
    /// Starts threads, once it has started.
    pub(crate) spawner: OnceLock<Sender<Start>>,
}

impl Process {
    /// Of which these `files` are open to be reached.
    pub(crate) fn new(later: Reach, kept: CapabilitySet, files: Vec<PathFd>) -> Self {
        Self {
            later,
            kept,
            files: Mutex::new(files),
            processors: sched_getaffinity(None).ok(),
            spawner: OnceLock::new(),
        }
    }

    /// Whether it has started.
    pub(crate) fn has_started(&self) -> bool {
        self.spawner.get().is_some()
    }

    /// Confines the calling thread, and those that it starts, to what is needed later: in files and ports, and, if it
    /// is `whole`, as Linux 7.0 can, all other threads too; and in capabilities.
    pub(crate) fn confine_thread(&self, whole: bool) -> io::Result<()> {
        match self.later.enforce(BitFlags::EMPTY, whole) {
            Ok(enforced) => self.files.lock().extend(enforced.files),
            Err(error) => log::debug!("{error}"),
        }
        capabilities::keep(self.kept)
    }
}
