//! What the primary knows of its backup: whether it gets on, and until when it has not gone live.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::Shared;
use crate::entry::{Lsn, StatePart};
use crate::heartbeat::{LastHeard, Monitored, Role};
use crate::loss::LossReason;
use crate::sender::ages::Unacknowledged;
use crate::sender::lease::Lease;
use crate::sender::permit::Permit;
use crate::sender::standstill::{Seen, look_interval};

impl Shared {
    fn lock_unacknowledged(&self) -> MutexGuard<'_, Unacknowledged> {
        self.unacknowledged.lock()
    }

    fn lock_lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock()
    }

    /// A batch begins with the entry `lsn`.
    pub(super) fn note_batch(&self, lsn: Lsn, now: Instant) {
        self.lock_unacknowledged().batches.appended(lsn, now);
    }

    /// The entry `lsn` is an output.
    pub(super) fn note_output(&self, lsn: Lsn) {
        if self.joining.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        self.lock_unacknowledged().outputs.appended(lsn, now);
    }

    /// A part of the guest's state is the entry `lsn`.
    pub(super) fn note_state(&self, part: &StatePart, lsn: Lsn) {
        match part {
            StatePart::Begin => {
                self.repaired.store(u64::MAX, Ordering::Relaxed);
                if lsn == Lsn(1) {
                    self.joining.store(true, Ordering::Relaxed);
                }
            }
            StatePart::Commit(_) if self.repaired.load(Ordering::Relaxed) == u64::MAX => {
                self.repaired.store(lsn.0, Ordering::Relaxed);
            }
            StatePart::Commit(_) | StatePart::Pages(_) | StatePart::Rest(_) => {}
        }
    }

    /// The guest is held up since `now`, or not any more.
    pub(super) fn note_held(&self, since: Option<Instant>) {
        *self.held.lock() = since;
    }

    /// What may leave now, and until when.
    pub(in crate::sender) fn permit(&self) -> Permit {
        let round_trip = self.round_trip().unwrap_or_default();
        Permit {
            up_to: self.acked(),
            until: Some(self.lock_lease().end(round_trip)),
        }
    }

    /// The backup has received everything up to `acked`, and all of that was sent after it was
    /// appended.
    pub(super) fn take_proof(&self, acked: Lsn) {
        let appended = {
            let mut unacknowledged = self.lock_unacknowledged();
            let output = unacknowledged.outputs.acknowledged(acked);
            output.max(unacknowledged.batches.acknowledged(acked))
        };
        if let Some(appended) = appended {
            self.lock_lease().prove(appended);
        }
    }
}

impl Monitored for Shared {
    const ROLE: Role = Role::Primary;

    fn traffic(&self) -> &LastHeard {
        &self.traffic
    }

    fn released(&self) -> Lsn {
        Lsn(self.released.load(Ordering::Relaxed))
    }

    fn peer_released(&self, _: Lsn) {}

    fn storage(&self, _: Instant) -> Option<Duration> {
        None
    }

    fn peer_storage(&self, answered: Instant) {
        let mut latest = self.peer_storage.lock();
        *latest = (*latest).max(Some(answered));
    }

    fn note_round_trip(&self, estimate: Duration) {
        let micros = estimate.as_micros().max(1) as u64;
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    fn was_heard(&self, sent: Instant) {
        self.lock_lease().prove(sent);
    }

    fn look_interval(&self) -> Option<Duration> {
        Some(look_interval(&self.settings))
    }

    fn look(&self, now: Instant) {
        // A backup that stands still reports nothing: time alone must show the lag.
        let lag = self.lock_lag().lag(now);
        self.judge_lag(lag);
        let executed = self.executed();
        let seen = Seen {
            awaited: self.lock_unacknowledged().outputs.oldest(),
            held: *self.held.lock(),
            acked: self.acked(),
            appended: Lsn(self.appended.load(Ordering::Relaxed)),
            executed,
            repairing: executed.0 < self.repaired.load(Ordering::Relaxed),
            disk_silent: *self.storage_silent.lock(),
        };
        let found = self.standstill.lock().tick(now, &seen);
        if let Some(reason) = found {
            self.lose(reason);
        }
    }

    fn silent(&self, for_: Duration) {
        self.lose(LossReason::Silent { for_ });
    }

    fn is_over(&self) -> bool {
        self.loss.is_over()
    }
}
