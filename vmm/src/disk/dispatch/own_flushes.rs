//! When the service flushes the disk by itself.

use std::time::{Duration, Instant};

/// Flushes of the service's own.
#[derive(Default)]
pub(super) struct OwnFlushes {
    /// How many failed one after the other.
    pub(super) failed: u32,
    /// When the next one may go out.
    pub(super) not_before: Option<Instant>,
}

impl OwnFlushes {
    /// After so many failures, what is kept beyond its bound is given up.
    pub(super) const GIVE_UP: u32 = 3;

    pub(super) fn may_go_out(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Notes a failure; returns how long the next one has to wait.
    pub(super) fn fail(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.failed.min(5));
        self.failed += 1;
        self.not_before = Some(Instant::now() + pause);
        pause
    }
}
