//! A log, as a replay reads it.

use std::sync::atomic::AtomicU64;

use logging_channel::entry::{Entry, Lsn};

use super::StateFollower;
use crate::engine::{Divergence, Interruption, Step};

/// The next entry of a log, or its end.
pub enum Head<'a> {
    /// The next entry.
    Entry(Lsn, &'a Entry),
    /// Nothing more will come.
    Ended,
}

/// A log being replayed.
pub trait LogSource {
    /// The next entry; waits for it. This is what keeps a backup behind the primary: it never
    /// runs beyond an exit before it has seen the entry that follows it.
    ///
    /// # Errors
    /// [`Interruption::Failed`] when the log is damaged.
    fn head(&mut self) -> Step<Head<'_>>;

    /// The head was used; go to the next.
    fn advance(&mut self);

    /// The log ended before the guest did: what now?
    fn after_end(&mut self) -> Interruption;

    /// What the replay knew of the guest's state when the log ended, before [`LogSource::after_end`].
    fn keep_state(&mut self, state: StateFollower) {
        drop(state);
    }

    /// The replay differs. Whether the log can bring the whole state: if so, the rest of it is
    /// skipped up to a transfer.
    fn differs(&mut self, divergence: &Divergence) -> bool {
        let _ = divergence;
        false
    }

    /// The whole state was taken over: the replay is as the log says again.
    fn is_repaired(&mut self) {}
}

/// What a replay has compared.
#[derive(Debug, Default)]
pub struct ReplayCounters {
    /// Deterministic exits passed.
    pub exits: AtomicU64,
    /// Log entries used.
    pub entries: AtomicU64,
    /// Register digests compared.
    pub digests: AtomicU64,
    /// Full register sets compared.
    pub registers: AtomicU64,
    /// Digests of the whole state compared.
    pub states: AtomicU64,
    /// Pages of memory compared.
    pub pages: AtomicU64,
}
