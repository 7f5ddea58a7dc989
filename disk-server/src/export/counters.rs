//! What is counted of an export, from the start of the server on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fenced;

/// The counts of one export. None orders anything, and none is read together with another.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    refused_requests: AtomicU64,
    refused_connections: AtomicU64,
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

    pub(super) fn refuse_request(&self) {
        self.refused_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse_connection(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Fenced>);

impl Counted {
    pub(super) fn new(export: &Arc<Fenced>) -> Counted {
        let counter = &export.counters.connections;
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(export))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
