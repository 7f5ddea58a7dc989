//! What ends a server: whoever stops it, and failures that it cannot go on after.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::nbd::ExportName;
use crate::storage::FlushError;

/// Ends a server from another thread.
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<UnixStream>);

impl StopHandle {
    /// Of a server that ends when a byte comes from the other end of the pair.
    pub(crate) fn new(wake: UnixStream) -> StopHandle {
        StopHandle(Arc::new(wake))
    }

    /// Tells the server to end: no new connections; decisions and requests under way are finished.
    pub fn stop(&self) {
        // One byte wakes the server. If the pipe is full it is awake; if it is gone, so is the
        // server.
        let _ = (&*self.0).write(&[1]);
    }
}

/// Why a running server ends before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listening socket failed.
    #[error("cannot accept connections any more")]
    Accept(#[source] io::Error),
    /// What clients wrote did not reach the disk. Linux tells so once and drops the data, so that
    /// no later flush can be believed; clients that know this repeat what they wrote to the next
    /// server.
    #[error(
        "the export {export} cannot be flushed; look at its disk and start the server again \
         (guests wait, and repeat what was not flushed)"
    )]
    Flush {
        /// The export.
        export: ExportName,
        /// What the system said.
        source: FlushError,
    },
}

/// The first failure that a server cannot go on after. A handle.
#[derive(Debug, Clone)]
pub(crate) struct Ending(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    first: Mutex<Option<RunError>>,
    stop: StopHandle,
}

impl Ending {
    pub(crate) fn new(stop: StopHandle) -> Ending {
        Ending(Arc::new(Inner {
            first: Mutex::default(),
            stop,
        }))
    }

    /// Ends the server. Only the first failure is told: later ones follow from it, or from the end.
    pub(crate) fn fail(&self, failure: RunError) {
        self.0.first.lock().get_or_insert(failure);
        self.0.stop.stop();
    }

    /// The failure, if there was one.
    pub(crate) fn take(&self) -> Option<RunError> {
        self.0.first.lock().take()
    }
}
