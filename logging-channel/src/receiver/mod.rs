//! The backup's end of a session.
//!
//! ```text
//!   primary ──TCP──▶ reading thread ──▶ queue ──peek/next──▶ replay
//!      ◀──acknowledge──┘   ▲                                   │
//!                          └────────── executed ◀──────────────┘
//! ```
//!
//! One thread reads, decodes, checks, queues and acknowledges. Acknowledged means: in the queue.
//! When the queue is full it stops reading, TCP pushes back, the primary's buffer fills and its
//! guest waits.

mod link;
mod queue;
mod stats;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use link::Shared;
use queue::{Queued, Taken};
pub use stats::ReceiverStats;

use crate::entry::{Entry, Lsn};
use crate::heartbeat::Beating;
use crate::loss::{ChannelEvent, LossReason};
use crate::memory::{self, TakeBlocks};
use crate::session::{Connected, SessionInfo};
use crate::settings::Settings;

/// The backup's end of a session: gives out the log's entries in order, each once.
///
/// For the one thread that replays. Others take a [`ReceiverHandle`]. The session ends when this
/// is dropped.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Taken from the queue, not consumed.
    batches: VecDeque<Queued>,
    current: Current,
    beating: Option<Beating>,
    reading: Option<JoinHandle<()>>,
}

/// The batch that is being consumed.
#[derive(Debug, Default)]
struct Current {
    next: Lsn,
    entries: std::vec::IntoIter<Entry>,
    bytes: usize,
    /// When it came; before the first batch, never.
    arrived: Option<Instant>,
}

/// What the log holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Peek<'a> {
    /// The next entry; it stays the next.
    Entry(Lsn, &'a Entry),
    /// None came in time.
    TimedOut,
    /// There is none and there will be none: every entry that came was consumed.
    Ended(LossReason),
}

/// What [`Receiver::next`] took from the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The next entry.
    Entry(Lsn, Entry),
    /// None came in time.
    TimedOut,
    /// There is none and there will be none: every entry that came was consumed.
    Ended(LossReason),
}

/// The backup's end of a session, for the threads that do not replay.
#[derive(Debug, Clone)]
pub struct ReceiverHandle {
    shared: Arc<Shared>,
}

impl Receiver {
    /// Starts the threads of a session whose handshake is done.
    pub(crate) fn start(connected: Connected, settings: Settings) -> io::Result<Self> {
        let Connected {
            stream,
            memory,
            udp,
            info,
        } = connected;
        let (session, timeout) = (info.session, info.heartbeat_timeout);
        let shared = Arc::new(Shared::new(stream, memory, info, settings));
        let mut receiver = Self {
            shared: Arc::clone(&shared),
            batches: VecDeque::new(),
            current: Current::default(),
            beating: None,
            reading: None,
        };
        receiver.beating = Some(Beating::start(udp, session, timeout, Arc::clone(&shared))?);
        receiver.reading = Some(
            thread::Builder::new()
                .name("log-receiver".into())
                .spawn(move || shared.read_loop())?,
        );
        Ok(receiver)
    }

    /// Looks at the next entry without consuming it; waits for it, at most `timeout`.
    ///
    /// Takes a lock only when the entries at hand are used up.
    pub fn peek(&mut self, timeout: Duration) -> Peek<'_> {
        if let Some(end) = self.refill(timeout) {
            return match end {
                Some(reason) => Peek::Ended(reason),
                None => Peek::TimedOut,
            };
        }
        match self.current.entries.as_slice().first() {
            Some(entry) => Peek::Entry(self.current.next, entry),
            None => unreachable!("a refilled batch has an entry"),
        }
    }

    /// Consumes the next entry; waits for it, at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Next {
        if let Some(end) = self.refill(timeout) {
            return match end {
                Some(reason) => Next::Ended(reason),
                None => Next::TimedOut,
            };
        }
        match self.current.entries.next() {
            Some(entry) => {
                let lsn = self.current.next;
                self.current.next = lsn.next();
                Next::Entry(lsn, entry)
            }
            None => unreachable!("a refilled batch has an entry"),
        }
    }

    /// Makes the next entry the first of `current`. Otherwise says why there is none: `None` for
    /// no reason but time.
    fn refill(&mut self, timeout: Duration) -> Option<Option<LossReason>> {
        while self.current.entries.as_slice().is_empty() {
            let used = std::mem::take(&mut self.current.bytes);
            if used > 0 {
                self.shared.consumed(used);
            }
            if self.batches.is_empty() {
                match self.shared.queue.take_all(&mut self.batches, timeout) {
                    Taken::Batches => {}
                    Taken::TimedOut => return Some(None),
                    Taken::Ended => {
                        let reason = self.shared.loss.reason().cloned();
                        return Some(Some(reason.unwrap_or(LossReason::Closed)));
                    }
                }
            }
            if let Some(Queued {
                batch,
                bytes,
                arrived,
            }) = self.batches.pop_front()
            {
                self.current = Current {
                    next: batch.first,
                    entries: batch.entries.into_iter(),
                    bytes,
                    arrived: Some(arrived),
                };
            }
        }
        None
    }

    /// When the entry that [`Receiver::peek`] or [`Receiver::next`] gave last was received, which
    /// may be long before its execution: the clock to compare the primary's time stamps with.
    #[must_use]
    pub fn arrived(&self) -> Option<Instant> {
        self.current.arrived
    }

    /// The replay differed from the log at `lsn`: asks the primary for its whole state. With
    /// `uncounted` also that no counted stop follows that, now or ever again.
    pub fn need_state(&self, lsn: Lsn, uncounted: bool) {
        self.shared.uncounted.fetch_or(uncounted, Ordering::Relaxed);
        self.shared.differed.store(lsn.0, Ordering::Release);
    }

    /// Everything up to `lsn` has been executed. One relaxed store, and a look at the clock when
    /// nothing is left: to be called at every entry. The primary learns of it with the next
    /// acknowledgement, some ten milliseconds later, which says how long ago it was.
    ///
    /// An entry is executed when the replay has reached its point and applied it, not when the
    /// next one is there: the primary's [`throttle`](crate::sender::Sender::throttle) may hold the
    /// guest until the last entry is executed, and then there is no next one.
    pub fn executed(&self, lsn: Lsn) {
        let at_hand = self.current.entries.as_slice();
        let nothing_left = at_hand.is_empty() && self.batches.is_empty();
        self.shared.note_executed(lsn, nothing_left);
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> ReceiverHandle {
        ReceiverHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// See [`ReceiverHandle::released`].
    #[must_use]
    pub fn released(&self) -> Lsn {
        self.shared.released()
    }

    /// See [`ReceiverHandle::events`].
    #[must_use]
    pub fn events(&self) -> crossbeam_channel::Receiver<ChannelEvent> {
        self.shared.loss.events()
    }

    /// See [`ReceiverHandle::lost`].
    #[must_use]
    pub fn lost(&self) -> Option<LossReason> {
        self.shared.loss.reason().cloned()
    }

    /// See [`ReceiverHandle::session`].
    #[must_use]
    pub fn session(&self) -> &SessionInfo {
        &self.shared.info
    }

    /// See [`ReceiverHandle::stats`].
    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        self.shared.stats()
    }
}

impl ReceiverHandle {
    /// Has the guest memory that comes beside the log given to `taker`, on threads of its own. To be
    /// called once.
    ///
    /// # Errors
    /// [`io::Error`], if the host has no room for them.
    pub fn read_memory(&self, taker: &Arc<dyn TakeBlocks>) -> io::Result<()> {
        let streams = self.shared.memory.iter().map(TcpStream::try_clone);
        memory::read(streams.collect::<io::Result<_>>()?, taker)
    }

    /// The disk server answered this host at `at`: heartbeats tell the primary.
    pub fn storage_answered(&self, at: Instant) {
        *self.shared.storage.lock() = Some(at);
    }

    /// Every output up to this LSN has left the primary, as far as this side knows. One that goes
    /// live re-sends the later ones: the network may see an output twice, never not at all.
    #[must_use]
    pub fn released(&self) -> Lsn {
        self.shared.released()
    }

    /// Where the end of the session is announced, exactly once and at once, even if entries still
    /// wait to be replayed; clones of the receiver share it.
    #[must_use]
    pub fn events(&self) -> crossbeam_channel::Receiver<ChannelEvent> {
        self.shared.loss.events()
    }

    /// Why the session is over, or `None` while it is not.
    #[must_use]
    pub fn lost(&self) -> Option<LossReason> {
        self.shared.loss.reason().cloned()
    }

    /// What was agreed in the handshake.
    #[must_use]
    pub fn session(&self) -> &SessionInfo {
        &self.shared.info
    }

    /// What this end did so far.
    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        self.shared.stats()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.close();
        self.beating = None;
        if let Some(thread) = self.reading.take() {
            let _ = thread.join();
        }
    }
}
