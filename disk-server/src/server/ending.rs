//! What ends a server before it was told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        self.lock().get_or_insert(failure);
        self.0.stop.stop();
    }

    /// The failure, if there was one.
    pub(super) fn take(&self) -> Option<RunError> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<RunError>> {
        // Nothing is left half done under this lock.
        self.0.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
