//! How long inputs wait for the guest, and outputs for the backup.

use std::sync::Arc;
use std::time::Duration;

use logging_channel::times::{TimeFigures, Times};
use parking_lot::Mutex;

/// Measures how long something waited on this host: inputs, from the moment at which an I/O thread
/// had them to their execution point; outputs, from the guest's send to their release. A handle.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<Times>>);

impl Waits {
    /// One waited for this long.
    pub fn note(&self, wait: Duration) {
        self.0.lock().note(wait);
    }

    /// What was measured up to now.
    #[must_use]
    pub fn figures(&self) -> TimeFigures {
        self.0.lock().figures()
    }

    /// What was measured since this was asked last; see [`Times::take_recent`].
    #[must_use]
    pub fn take_recent(&self) -> Vec<(u64, u64)> {
        self.0.lock().take_recent()
    }
}
