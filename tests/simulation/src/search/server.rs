//! The disk server, and what is on its way there.

use std::collections::BTreeSet;

use disk_server::arbiter::{Claimant, Record};
use ftvm_vmm::protocol::epoch::Task;

use super::disk::Disk;
use super::process::{Run, claimant};

/// The disk server, and what is on its way there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) record: Record,
    /// Who was the primary before the guest was ended, or started anew by force: it runs it until it is told.
    pub(super) last_primary: Option<Claimant>,
    /// What is on its disk.
    pub(super) written: Record,
    /// All that was ever asked, by which run: it may come, or come again.
    pub(super) asked: BTreeSet<(Run, Task)>,
    pub(super) disk: Option<Disk>,
}

impl Server {
    pub(super) fn new(record: Record, has_disk: bool) -> Self {
        Self {
            disk: has_disk.then(|| Disk::new(&record)),
            written: record.clone(),
            record,
            last_primary: None,
            asked: BTreeSet::new(),
        }
    }

    /// Whether a run may answer the client.
    pub(super) fn is_primary(&self, run: Run) -> bool {
        let is = |it: &Option<Claimant>| *it == Some(claimant(run));
        is(&self.record.holder) || is(&self.last_primary)
    }

    /// Forgets questions that can change nothing any more.
    pub(super) fn forget_spent(&mut self) {
        let oldest = self.record.epoch.min(self.written.epoch);
        self.asked.retain(|(_, task)| match task {
            Task::Claim { epoch, .. } | Task::Acknowledge(epoch) => *epoch >= oldest,
            Task::Watch { .. } | Task::Nothing => false,
        });
    }

    pub(super) fn holds(&self, run: Run) -> bool {
        self.record.holder == Some(claimant(run))
    }

    /// Whether it may have to do with this run still.
    pub(super) fn knows(&self, run: Run) -> bool {
        self.holds(run)
            || self.written.holder == Some(claimant(run))
            || self.asked.iter().any(|(by, _)| *by == run)
    }
}
