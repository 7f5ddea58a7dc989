//! The open connections of one listener, so that they can be counted and closed.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    streams: BTreeMap<u64, TcpStream>,
    next: u64,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing is left half done under this lock, so a panic elsewhere does not matter here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; `None` when there are `max` already.
    pub(super) fn register(&self, stream: TcpStream, max: usize) -> Option<Place<'_>> {
        let mut open = self.lock();
        if open.streams.len() >= max {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, stream);
        Some(Place {
            connections: self,
            id,
        })
    }

    /// Lets readers see the end of their streams.
    pub(super) fn close_all(&self) {
        for stream in self.lock().streams.values() {
            // Only the reading half: the answer to a request under way may still leave.
            let _ = stream.shutdown(Shutdown::Read);
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
    }
}
