//! What a guest did with its disk, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a guest did with its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFigures {
    /// Reads that were answered.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Reads that the log leaves to a backup, which does them itself.
    pub shared_reads: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

#[derive(Debug, Default)]
struct Counted {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    shared_reads: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

/// Counts what a guest does with its disk. A handle.
#[derive(Debug, Clone, Default)]
pub struct DiskCounters(Arc<Counted>);

impl DiskCounters {
    pub(super) fn read(&self, bytes: usize) {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn shared(&self) {
        self.0.shared_reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0
            .written_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was counted up to now.
    #[must_use]
    pub fn figures(&self) -> DiskFigures {
        DiskFigures {
            reads: self.0.reads.load(Ordering::Relaxed),
            read_bytes: self.0.read_bytes.load(Ordering::Relaxed),
            shared_reads: self.0.shared_reads.load(Ordering::Relaxed),
            writes: self.0.writes.load(Ordering::Relaxed),
            written_bytes: self.0.written_bytes.load(Ordering::Relaxed),
        }
    }
}
