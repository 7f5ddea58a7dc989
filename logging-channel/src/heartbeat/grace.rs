//! A process that did not run cannot tell a peer that stands still from itself.

use std::time::{Duration, Instant};

/// Notices at its [`tick`](Grace::tick)s that this process did not run, and has decisions about the
/// peer wait for an interval, in which what the peer sent meanwhile is read:
///
/// - after a tick that is late by more than an interval, once until there is [news](Grace::news),
/// - after one that is late by more than the timeout, every time.
///
/// On a host that is always late by a little, the second delay does not come, so that a loss is
/// found there too.
#[derive(Debug, Clone)]
pub(crate) struct Grace {
    timeout: Duration,
    interval: Duration,
    ticked: Instant,
    /// Until when a decision waits because this process itself was late.
    until: Option<Instant>,
}

impl Grace {
    /// For a decision after `timeout` that is looked at every `interval`.
    pub(crate) fn new(timeout: Duration, interval: Duration, now: Instant) -> Self {
        Self {
            timeout,
            interval,
            ticked: now,
            until: None,
        }
    }

    /// The peer is as it should be.
    pub(crate) fn news(&mut self) {
        self.until = None;
    }

    /// Time has passed. Returns whether a decision has to wait.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        let late = now
            .saturating_duration_since(self.ticked)
            .saturating_sub(self.interval);
        self.ticked = self.ticked.max(now);
        if late > self.timeout || (late > self.interval && self.until.is_none()) {
            self.until = Some(now + self.interval);
        }
        self.until.is_some_and(|until| now < until)
    }
}
