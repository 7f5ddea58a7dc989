//! How a guest's disk is served, and for whom.

use std::sync::Arc;
use std::time::Duration;

use super::RefusalNotice;
use super::counters::DiskCounters;
use super::link::LinkSettings;
use super::progress::LogProgress;
use super::unflushed::Unflushed;

/// How the disk of a guest is served.
#[derive(Debug, Clone, Copy)]
pub struct DiskSettings {
    /// How long a request is tried before the guest gets an I/O error.
    pub timeout: Duration,
    /// How long the server may take for a request before people are told.
    pub told_after: Duration,
    /// How long pauses between attempts to connect are.
    pub link: LinkSettings,
}

impl DiskSettings {
    /// How long a request is tried where nobody said otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(300);
    /// Far more than a disk that is well takes, and far less than a guest notices by itself (Linux
    /// tells of a task that waits for 120 s).
    const TOLD_AFTER: Duration = Duration::from_secs(5);
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self {
            timeout: Self::TIMEOUT,
            told_after: Self::TOLD_AFTER,
            link: LinkSettings::default(),
        }
    }
}

/// Who serves a guest's disk, and for whom.
#[derive(Default)]
pub struct Serving {
    /// The epoch in which this host runs the guest, if it is one of a pair.
    pub epoch: Option<u64>,
    /// The log that changes of the disk wait for, if a backup has it.
    pub log: Option<Arc<dyn LogProgress>>,
    /// Whether backups that execute the log read the disk themselves: then changes of what the guest
    /// has read wait until the backup has executed that.
    pub backup_reads: bool,
    /// Counts what the guest does with it.
    pub counters: DiskCounters,
    /// What the server may still lose of what an earlier host did, for one that goes live.
    pub unflushed: Unflushed,
    /// Is told when the server does not let this host write.
    pub refused: RefusalNotice,
}
