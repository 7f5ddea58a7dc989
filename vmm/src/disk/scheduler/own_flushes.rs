//! When the service flushes the disk by itself.

use std::time::{Duration, Instant};

/// Flushes of the service's own.
#[derive(Debug, Default)]
pub(super) struct OwnFlushes {
    /// How many failed one after the other.
    failed: u32,
    /// When the next one may go out.
    not_before: Option<Instant>,
}

impl OwnFlushes {
    /// So many failures.
    const GIVE_UP: u32 = 3;

    pub(super) fn may_go_out(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether so many failed that what is kept beyond its bound is given up.
    pub(super) fn is_hopeless(&self) -> bool {
        self.failed >= Self::GIVE_UP
    }

    /// Notes a failure `now`; returns how long the next one has to wait.
    pub(super) fn fail(&mut self, now: Instant) -> Duration {
        let pause = Duration::from_secs(1 << self.failed.min(5));
        self.failed += 1;
        self.not_before = Some(now + pause);
        pause
    }
}
