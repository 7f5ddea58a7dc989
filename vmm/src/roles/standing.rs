//! Whether this host may run the guest alone, decided once.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The right to run alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Won: this host is the only one that runs the guest, in this epoch.
    Won {
        /// The epoch.
        epoch: u64,
        /// When the peer was found lost.
        lost_at: Instant,
    },
    /// Lost, with the reason for people.
    Lost(String),
}

/// A verdict that others wait for. A handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<(Mutex<Option<Verdict>>, Condvar)>);

impl Standing {
    /// Sets the verdict.
    pub(super) fn decide(&self, verdict: Verdict) {
        let (decided, changed) = &*self.0;
        *decided.lock().expect("no holder panics") = Some(verdict);
        changed.notify_all();
    }

    /// The verdict, if there is one within `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Verdict> {
        let (decided, changed) = &*self.0;
        let guard = decided.lock().expect("no holder panics");
        let (guard, _) = changed
            .wait_timeout_while(guard, timeout, |verdict| verdict.is_none())
            .expect("no holder panics");
        guard.clone()
    }
}
