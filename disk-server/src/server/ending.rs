//! What ends a server before it was told to.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{RunError, StopHandle};

/// The first failure that a server cannot go on after. A handle.
#[derive(Debug, Clone)]
pub(crate) struct Ending(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    first: Mutex<Option<RunError>>,
    stop: StopHandle,
}

impl Ending {
    pub(super) fn new(stop: StopHandle) -> Ending {
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
    pub(super) fn take(&self) -> Option<RunError> {
        self.0.first.lock().take()
    }
}
