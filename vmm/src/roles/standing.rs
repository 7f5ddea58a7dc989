//! Whether this host may run the guest alone, decided once.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a guest's end waits for a verdict that is being asked for.
const END_PATIENCE: Duration = Duration::from_secs(5);

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

#[derive(Debug, Default)]
struct State {
    /// The peer is lost and the verdict is being asked for.
    contested: bool,
    /// Whether this host may ask: a backup only when it has replayed everything. Or why not.
    readiness: Option<Result<(), String>>,
    verdict: Option<Verdict>,
}

/// A verdict that others wait for. A handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<(Mutex<State>, Condvar)>);

impl Standing {
    /// The peer is lost: a verdict will come.
    pub(super) fn contest(&self) {
        self.0.0.lock().expect("no holder panics").contested = true;
    }

    /// This host's guest is as it should be: it may ask.
    pub(super) fn ready(&self) {
        self.set_readiness(Ok(()));
    }

    /// This host's guest is not as it should be: it must not ask.
    pub(super) fn refuse(&self, reason: &str) {
        self.set_readiness(Err(reason.to_owned()));
    }

    fn set_readiness(&self, readiness: Result<(), String>) {
        let (state, changed) = &*self.0;
        state.lock().expect("no holder panics").readiness = Some(readiness);
        changed.notify_all();
    }

    /// Waits until this host may ask, or may not.
    pub(super) fn wait_readiness(&self) -> Result<(), String> {
        let (state, changed) = &*self.0;
        let guard = state.lock().expect("no holder panics");
        let mut guard = changed
            .wait_while(guard, |state| state.readiness.is_none())
            .expect("no holder panics");
        guard.readiness.take().unwrap_or(Ok(()))
    }

    /// Sets the verdict.
    pub(super) fn decide(&self, verdict: Verdict) {
        let (state, changed) = &*self.0;
        state.lock().expect("no holder panics").verdict = Some(verdict);
        changed.notify_all();
    }

    /// The verdict, if there is one within `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Verdict> {
        let (state, changed) = &*self.0;
        let guard = state.lock().expect("no holder panics");
        let (guard, _) = changed
            .wait_timeout_while(guard, timeout, |state| state.verdict.is_none())
            .expect("no holder panics");
        guard.verdict.clone()
    }

    /// The epoch that this host holds at the guest's end, which began at `first`: waits a moment
    /// for a verdict that is on its way.
    pub(super) fn last_epoch(&self, first: u64) -> u64 {
        let contested = self.0.0.lock().expect("no holder panics").contested;
        let patience = if contested {
            END_PATIENCE
        } else {
            Duration::ZERO
        };
        match self.wait(patience) {
            Some(Verdict::Won { epoch, .. }) => epoch,
            _ => first,
        }
    }
}
