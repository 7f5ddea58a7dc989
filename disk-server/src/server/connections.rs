//! The open connections of one listener, so that they can be counted and closed.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

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
    /// Takes a connection in; `None` when there are `max` already.
    pub(super) fn register(&self, stream: &Arc<TcpStream>, max: usize) -> Option<Registration<'_>> {
        let mut open = self.open.lock();
        if open.streams.len() >= max {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, Arc::clone(stream));
        Some(Registration {
            connections: self,
            id,
        })
    }

    /// Ends all connections: readers see the end of their streams, and what is under way is
    /// finished. Clients that do not take their answers are cut off after `grace`.
    pub(super) fn end_all(&self, grace: Duration) {
        let mut open = self.open.lock();
        // Only the reading half: the answer to a request under way may still leave.
        open.shutdown(Shutdown::Read);
        self.left
            .wait_while_for(&mut open, |open| !open.streams.is_empty(), grace);
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

/// A connection among the open ones, until its session ends.
#[derive(Debug)]
pub(super) struct Registration<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.connections.open.lock().streams.remove(&self.id);
        self.connections.left.notify_all();
    }
}
