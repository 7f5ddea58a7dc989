//! What the heartbeats' thread tells the primary's end, and asks it.

use std::time::{Duration, Instant};

use super::Shared;
use crate::entry::Lsn;
use crate::heartbeat::{LastHeard, Monitored, Role};
use crate::loss::LossReason;
use crate::protocol::{Heard, Permit};

impl Shared {
    /// What may leave now, and until when.
    pub(in crate::sender) fn permit(&self) -> Permit {
        self.lock_end().permit()
    }
}

impl Monitored for Shared {
    const ROLE: Role = Role::Primary;

    fn traffic(&self) -> &LastHeard {
        &self.traffic
    }

    fn released(&self) -> Lsn {
        self.lock_end().released()
    }

    fn storage(&self, _: Instant) -> Option<Duration> {
        None
    }

    fn heard(&self, heard: &Heard) {
        *self.arrivals.lock() = heard.arrivals;
        self.lock_end().hear_heartbeat(heard, Instant::now());
    }

    fn look_interval(&self) -> Option<Duration> {
        Some(self.lock_end().look_interval())
    }

    fn look(&self, now: Instant) {
        let found = {
            let mut end = self.lock_end();
            let found = end.look(now);
            self.publish(&end);
            found
        };
        if let Some(reason) = found {
            Shared::lose(self, reason);
        }
    }

    fn lose(&self, reason: LossReason) {
        Shared::lose(self, reason);
    }

    fn is_over(&self) -> bool {
        self.loss.is_over()
    }
}
