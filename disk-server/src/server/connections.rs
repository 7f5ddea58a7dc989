//! The open connections of one listener, so that they can be counted and closed.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    /// Shared with their sessions: a descriptor of their own would halve what there is room for.
    streams: BTreeMap<u64, Arc<TcpStream>>,
    next: u64,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing is left half done under this lock, so a panic elsewhere does not matter here.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; `None` when there are `max` already.
    pub(super) fn register(&self, stream: &Arc<TcpStream>, max: usize) -> Option<Place<'_>> {
        let mut open = self.lock();
        if open.streams.len() >= max {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, Arc::clone(stream));
        Some(Place {
            connections: self,
            id,
        })
    }

    /// Ends all connections: readers see the end of their streams, and what is under way is
    /// finished. Clients that do not take their answers are cut off after `grace`.
    pub(super) fn end_all(&self, grace: Duration) {
        let open = self.lock();
        // Only the reading half: the answer to a request under way may still leave.
        open.shutdown(Shutdown::Read);
        let waited = self
            .left
            .wait_timeout_while(open, grace, |open| !open.streams.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        open.shutdown(Shutdown::Both);
    }
}

impl Open {
    fn shutdown(&self, how: Shutdown) {
        for stream in self.streams.values() {
            // It may be closed already.
            let _ = stream.shutdown(how);
        }
    }
}

/// A connection's place among the open ones, given back when its session ends.
#[derive(Debug)]
pub(super) struct Place<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.id);
        self.connections.left.notify_all();
    }
}
