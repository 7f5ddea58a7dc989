//! How far the log has come, for the requests that wait for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use logging_channel::entry::Lsn;

use crate::threads;

/// How long a look at the log takes when nothing happens.
const PATIENCE: Duration = Duration::from_millis(500);

/// How far the log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The backup has acknowledged, and has executed, everything up to these entries.
    UpTo {
        /// Which of the guest's sessions this is: so many entries the guest had before it.
        session: Lsn,
        /// Acknowledged.
        committed: Lsn,
        /// Executed; by a backup that only keeps the log, nothing.
        executed: Option<Lsn>,
        /// The epoch in which this host runs the guest, if it is one of a pair.
        epoch: Option<u64>,
    },
    /// Nothing waits for a backup: there is none. One may come later.
    Alone {
        /// The epoch that this host won, if it had to ask for one.
        epoch: Option<u64>,
    },
    /// This host lost the right to run the guest: nothing may go out any more.
    Never,
}

/// A log whose progress requests wait for.
pub trait LogProgress: Send + Sync + 'static {
    /// How far it is.
    fn now(&self) -> Reached;

    /// Waits until `arrived` says so, or `now` says something of another kind, for at most `timeout`. `arrived` gets what is acknowledged and what is executed, and is asked at
    /// every change of the two.
    fn wait(&self, timeout: Duration, arrived: &mut dyn FnMut(Lsn, Lsn) -> bool);
}

/// What requests wait for. `u64::MAX` stands for nothing.
#[derive(Debug)]
struct Wants {
    committed: AtomicU64,
    executed: AtomicU64,
    over: AtomicBool,
}

/// Takes `lsn` away from `want` if it has come. Whoever waits is told only once, and a want that
/// was put there meanwhile stays.
fn satisfied(want: &AtomicU64, lsn: Lsn) -> bool {
    let wanted = want.load(Ordering::SeqCst);
    wanted <= lsn.0
        && want
            .compare_exchange(wanted, u64::MAX, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
}

/// Tells when the log has come to where it is wanted.
#[derive(Debug)]
pub(super) struct ProgressWatch(Arc<Wants>);

impl ProgressWatch {
    /// Starts a thread that calls `tell` when something that was wanted has come, until that
    /// returns `false`.
    pub(super) fn start(
        progress: Arc<dyn LogProgress>,
        tell: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let wants = Arc::new(Wants {
            committed: AtomicU64::new(u64::MAX),
            executed: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
        });
        let watched = Arc::downgrade(&wants);
        threads::insist("disk-log", &[], move || watch(&watched, &*progress, tell));
        Self(wants)
    }

    /// Wants to be told of these. Who sets them has to look at the log once more afterwards: what
    /// came before is told to nobody.
    pub(super) fn want(&self, committed: Option<Lsn>, executed: Option<Lsn>) {
        let store = |want: &AtomicU64, lsn: Option<Lsn>| {
            want.store(lsn.map_or(u64::MAX, |lsn| lsn.0), Ordering::SeqCst);
        };
        store(&self.0.committed, committed);
        store(&self.0.executed, executed);
    }
}

impl Drop for ProgressWatch {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

fn watch(wants: &Weak<Wants>, progress: &dyn LogProgress, tell: impl Fn() -> bool) {
    let mut session = None;
    while let Some(wants) = wants.upgrade() {
        let mut arrived = false;
        progress.wait(PATIENCE, &mut |committed, executed| {
            arrived |= satisfied(&wants.committed, committed);
            arrived |= satisfied(&wants.executed, executed);
            arrived || wants.over.load(Ordering::SeqCst)
        });
        let now = progress.now();
        let before = session;
        session = match now {
            Reached::UpTo { session, .. } => Some(session),
            Reached::Alone { .. } | Reached::Never => None,
        };
        if (arrived || session != before) && !tell() || now == Reached::Never {
            return;
        }
    }
}
