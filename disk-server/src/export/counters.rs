//! What is counted of an export, from the start of the server on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;

use crate::monitoring::SECONDS;

/// How many clients may leave requests behind that the disk is not done with. Where it hangs, each
/// of them keeps a place of a connection for as long, and clients connect anew.
pub(super) const MOST_LEFT_BEHIND: u64 = 16;

/// What is done on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Zero,
    Discard,
    Flush,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Zero,
        Self::Discard,
        Self::Flush,
    ];

    /// Its name where operations are counted.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero",
            Self::Discard => "discard",
            Self::Flush => "flush",
        }
    }
}

/// The operations of one kind.
#[derive(Debug)]
pub(crate) struct Operations {
    /// How long each took that was carried out, in seconds.
    pub(crate) times: Histogram,
    bytes: AtomicU64,
    errors: AtomicU64,
    running: AtomicU64,
}

impl Operations {
    /// Bytes that those were about that were carried out.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// How many are neither carried out nor failed.
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// One begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running {
            of: self,
            began: Instant::now(),
        }
    }
}

/// An operation that counts as running until this is dropped.
#[derive(Debug)]
pub(super) struct Running<'a> {
    of: &'a Operations,
    began: Instant,
}

impl Running<'_> {
    /// It was carried out, on so many bytes.
    pub(super) fn done(self, bytes: u64) {
        (self.of.times).observe(self.began.elapsed().as_secs_f64());
        self.of.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It failed.
    pub(super) fn failed(self) {
        self.of.errors.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.of.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            times: Histogram::new(SECONDS),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            running: AtomicU64::new(0),
        }
    }
}

/// The counts of one export. None orders anything, and none is read together with another.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    refused_requests: AtomicU64,
    refused_connections: AtomicU64,
    left_behind: [AtomicU64; 2],
    /// In the order of [`Operation::ALL`].
    operations: [Operations; Operation::ALL.len()],
}

impl Counters {
    /// Connections that are open.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Modifying requests that the fence refused.
    pub(super) fn refused_requests(&self) -> u64 {
        self.refused_requests.load(Ordering::Relaxed)
    }

    /// Writers that the fence did not let in.
    pub(super) fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Ordering::Relaxed)
    }

    /// Clients that left requests behind: writers in an epoch, or all others, so that these cannot
    /// keep a machine's host from its disk.
    pub(super) fn left_behind(&self, writers: bool) -> u64 {
        self.left_behind[usize::from(writers)].load(Ordering::Relaxed)
    }

    /// What was carried out of this kind.
    pub(super) fn operations(&self, operation: Operation) -> &Operations {
        &self.operations[operation as usize]
    }

    /// Carries an operation on so many bytes out, and counts it.
    pub(super) fn counted<E>(
        &self,
        operation: Operation,
        bytes: u64,
        carry_out: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let running = self.operations(operation).begin();
        let outcome = carry_out();
        match &outcome {
            Ok(()) => running.done(bytes),
            Err(_) => running.failed(),
        }
        outcome
    }

    pub(super) fn refuse_request(&self) {
        self.refused_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse_connection(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Counters>);

impl Counted {
    pub(super) fn new(counters: &Arc<Counters>) -> Counted {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(counters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that a client left behind, which count until it is dropped.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    counters: Arc<Counters>,
    writer: bool,
}

impl LeftBehind {
    pub(super) fn new(counters: &Arc<Counters>, writer: bool) -> LeftBehind {
        counters.left_behind[usize::from(writer)].fetch_add(1, Ordering::Relaxed);
        let counters = Arc::clone(counters);
        LeftBehind { counters, writer }
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        let counter = &self.counters.left_behind[usize::from(self.writer)];
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}
