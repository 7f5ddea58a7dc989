//! A backup that has taken over the whole state catches up with what the guest did meanwhile.

use std::time::{Duration, Instant};

use crate::entry::Lsn;

/// The guest makes one entry for so many that the backup executes: what is between them halves while the
/// guest has half of its time.
const SHARE: u64 = 2;

/// The guest is let run like that for so many times the lag with which it begins. A backup that executes
/// as fast as the guest ran needs two.
const PATIENCE: u32 = 4;

/// The catching up of a backup. The guest is slowed down for it, and not held up for all of it: that would be
/// as long as the backup took to take the state over.
#[derive(Debug, Clone, Copy)]
pub(super) struct CatchUp {
    appended: Lsn,
    executed: Lsn,
    until: Instant,
}

impl CatchUp {
    /// It begins `now`, with this `lag`.
    pub(super) fn new(appended: Lsn, executed: Lsn, lag: Duration, now: Instant) -> Self {
        Self {
            appended,
            executed,
            until: now + lag * PATIENCE,
        }
    }

    /// Whether the guest may run, as far as it and its backup are now.
    pub(super) fn allows(&self, appended: Lsn, executed: Lsn, now: Instant) -> bool {
        let (made, done) = (appended.0 - self.appended.0, executed.0 - self.executed.0);
        now < self.until && made * SHARE <= done
    }
}
