//! The record is read now and then, in a thread of its own: a disk server that is silent keeps its
//! reader waiting for seconds, and what happens meanwhile must be told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use confinement::Calls;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, unbounded};
use disk_server::arbiter::{CallError, Record};

use crate::roles::claim::Rights;
use crate::threads;

/// How soon it is read again where there is a doubt and no answer.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// What the disk server has, if it answered.
pub(super) type Answer = Result<Record, CallError>;

/// A host's looks at the record, one at a time. They keep a connection open, so that a claim is one
/// round trip.
pub(super) struct Looks {
    /// To the thread: where an answer goes.
    wanted: Sender<Sender<Answer>>,
    /// Where the answer comes to the look that is under way.
    under_way: Option<Receiver<Answer>>,
    /// A doubt came up since it began: its answer may be older than that.
    doubted: bool,
    interval: Duration,
    next: Instant,
    /// The disk server did, when it was asked last.
    answers: bool,
}

impl Looks {
    pub(super) fn start(rights: Arc<Rights>, interval: Duration) -> Self {
        let (wanted, looks) = unbounded::<Sender<Answer>>();
        let look = move || {
            for answer in looks {
                // Fails when nobody waits for it any more.
                let _ = answer.send(rights.look());
            }
        };
        threads::start("epoch-look", &[Calls::Connect, Calls::Files], look)
            .expect("a thread can be started");
        Self {
            wanted,
            under_way: None,
            doubted: false,
            interval,
            next: Instant::now() + interval,
            answers: true,
        }
    }

    /// Begins one if it is time, or there is a `doubt`.
    pub(super) fn begin_if_due(&mut self, doubt: bool) {
        let now = Instant::now();
        if self.under_way.is_none() && (now >= self.next || (doubt && self.answers)) {
            let (answer, coming) = bounded(1);
            self.wanted.send(answer).expect("the thread takes it");
            self.under_way = Some(coming);
            self.next = now + self.interval;
        }
    }

    /// Where the answer comes to the one that is under way.
    pub(super) fn answer(&self) -> Receiver<Answer> {
        self.under_way.clone().unwrap_or_else(never)
    }

    /// Where it is said that the next one is due.
    pub(super) fn due(&self) -> Receiver<Instant> {
        match self.under_way {
            None => at(self.next),
            Some(_) => never(),
        }
    }

    /// A doubt comes up.
    pub(super) fn doubt(&mut self) {
        self.doubted = self.under_way.is_some();
    }

    /// The answer has come; there was a `doubt` or not. Returns whether one came up meanwhile.
    pub(super) fn end(&mut self, answer: &Answer, doubt: bool) -> bool {
        match answer {
            Err(e) if self.answers => log::warn!(
                "the disk server does not answer; a failover would have to wait for it: {e}"
            ),
            Ok(_) if !self.answers => log::info!("the disk server answers again"),
            _ => {}
        }
        self.answers = answer.is_ok();
        if doubt && !self.answers {
            self.next = self.next.min(Instant::now() + DOUBT_INTERVAL);
        }
        self.under_way = None;
        std::mem::take(&mut self.doubted)
    }

    /// Nobody waits for the answer any more: it would be older than what is asked now.
    pub(super) fn forget(&mut self) {
        self.under_way = None;
        self.doubted = false;
    }
}
