//! The connection below its two halves, and the requests that are under way on it.

use std::collections::HashMap;
use std::net::Shutdown;

use parking_lot::{Mutex, MutexGuard};
use transport::Stream;

/// What both halves of a connection know.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: Stream,
    under_way: Mutex<HashMap<u64, Expected>>,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// A read of so many bytes from there.
    Data { offset: u64, len: u32 },
    /// Anything else: no data.
    Nothing,
}

impl Line {
    pub(super) fn new(stream: Stream) -> Line {
        Line {
            stream,
            under_way: Mutex::default(),
        }
    }

    pub(super) fn under_way(&self) -> MutexGuard<'_, HashMap<u64, Expected>> {
        self.under_way.lock()
    }

    /// Wakes both halves, which find the connection ended.
    pub(super) fn close(&self) {
        // An error means that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
