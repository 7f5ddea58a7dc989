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

mod keeping;
mod link;
mod memory;
mod queue;
mod spool;
mod stats;

use std::collections::VecDeque;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use confinement::Calls;
use transport::Stream;

pub(crate) use keeping::Keeping;
pub use keeping::Kept;
use keeping::{KeptNext, Stage};
use link::Shared;
use memory::MemoryKeeper;
use queue::{Queued, Taken};
pub use spool::{ClockEntry, Ended, Generation, Notice, SpoolError};
pub use stats::ReceiverStats;

use crate::entry::{Entry, Lsn};
use crate::heartbeat::Beating;
use crate::loss::{ChannelEvent, LossReason};
use crate::memory::{self as streams, TakeBlocks, TakeMemory};
use crate::session::SessionInfo;
use crate::settings::Settings;

/// How soon is looked again for what is being kept.
const LATER: Duration = Duration::from_millis(5);

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
    /// Of a cold backup, as long as it does not read what comes as it comes.
    stage: Option<Stage>,
    beating: Option<Beating>,
    threads: Vec<JoinHandle<()>>,
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
    /// What a cold backup has kept cannot be read back, for this reason.
    Damaged(String),
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
    /// What a cold backup has kept cannot be read back, for this reason.
    Damaged(String),
}

/// Why there is no next entry.
enum Missing {
    Yet,
    Ended(LossReason),
    Damaged(String),
}

/// The backup's end of a session, for the threads that do not replay.
#[derive(Debug, Clone)]
pub struct ReceiverHandle {
    shared: Arc<Shared>,
}

/// What connects a backup with its primary.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    /// Its memory streams.
    pub(crate) memory: Vec<Stream>,
    pub(crate) udp: UdpSocket,
    pub(crate) info: SessionInfo,
}

impl Receiver {
    /// Starts the threads of a session whose handshake is done.
    pub(crate) fn start(
        connected: Connected,
        settings: Settings,
        keeping: Option<Keeping>,
    ) -> io::Result<Self> {
        let Connected {
            stream,
            memory,
            udp,
            info,
        } = connected;
        let (session, timeout) = ((info.session, info.version), info.heartbeat_timeout);
        let key = stream.datagrams().cloned();
        let stage = keeping.is_some().then_some(Stage::Held);
        let shared = Arc::new(Shared::new(
            stream,
            memory,
            info,
            settings,
            keeping.map(Arc::new),
        ));
        let mut receiver = Self {
            shared: Arc::clone(&shared),
            batches: VecDeque::new(),
            current: Current::default(),
            stage,
            beating: None,
            threads: Vec::new(),
        };
        receiver.beating = Some(Beating::start(
            (udp, key),
            session,
            timeout,
            Arc::clone(&shared),
        )?);
        if let Some(keeping) = &shared.keeping {
            let (own, link) = (Arc::clone(keeping), Arc::clone(&shared));
            receiver.thread("log-keeper", &[Calls::Files, Calls::Storage], move || {
                own.keep_loop(&*link);
            })?;
            let (own, link) = (Arc::clone(keeping), Arc::clone(&shared));
            let taker: Arc<dyn TakeBlocks> = Arc::new(MemoryKeeper {
                memory: keeping.memory(),
                fail: Box::new(move |error| {
                    let text = own.note_failure(error);
                    link.lose(LossReason::NotKept(text.clone()));
                    text
                }),
            });
            receiver.handle().read_memory(&taker)?;
        }
        receiver.thread("log-receiver", &[], move || shared.read_loop())?;
        Ok(receiver)
    }

    fn thread(
        &mut self,
        name: &str,
        calls: &'static [Calls],
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let named = thread::Builder::new().name(name.into());
        self.threads.push(confinement::spawn(named, calls, run)?);
        Ok(())
    }

    /// Looks at the next entry without consuming it; waits for it, at most `timeout`.
    ///
    /// Takes a lock only when the entries at hand are used up.
    pub fn peek(&mut self, timeout: Duration) -> Peek<'_> {
        if let Some(missing) = self.refill(timeout) {
            return match missing {
                Missing::Yet => Peek::TimedOut,
                Missing::Ended(reason) => Peek::Ended(reason),
                Missing::Damaged(how) => Peek::Damaged(how),
            };
        }
        match self.current.entries.as_slice().first() {
            Some(entry) => Peek::Entry(self.current.next, entry),
            None => unreachable!("a refilled batch has an entry"),
        }
    }

    /// Consumes the next entry; waits for it, at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Next {
        if let Some(missing) = self.refill(timeout) {
            return match missing {
                Missing::Yet => Next::TimedOut,
                Missing::Ended(reason) => Next::Ended(reason),
                Missing::Damaged(how) => Next::Damaged(how),
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

    /// Makes the next entry the first of `current`. Otherwise says why there is none.
    fn refill(&mut self, timeout: Duration) -> Option<Missing> {
        while self.current.entries.as_slice().is_empty() {
            let used = std::mem::take(&mut self.current.bytes);
            if used > 0 {
                self.shared.consumed(used);
            }
            if self.batches.is_empty()
                && let Some(missing) = self.refill_from_spool(timeout)
            {
                return Some(missing);
            }
            if self.batches.is_empty() {
                match self.shared.queue.take_all(&mut self.batches, timeout) {
                    Taken::Batches => {}
                    Taken::TimedOut => return Some(Missing::Yet),
                    Taken::Ended => {
                        let reason = self.shared.loss.reason().cloned();
                        return Some(Missing::Ended(reason.unwrap_or(LossReason::Closed)));
                    }
                }
            }
            if let Some(Queued {
                batch,
                bytes,
                arrived,
                ..
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

    /// The next batch that a cold backup has kept.
    fn refill_from_spool(&mut self, timeout: Duration) -> Option<Missing> {
        let (Some(stage), Some(keeping)) = (&mut self.stage, &self.shared.keeping) else {
            return None;
        };
        let Stage::Reading(reader) = stage else {
            thread::sleep(timeout);
            return Some(Missing::Yet);
        };
        match keeping.next(reader) {
            Ok(KeptNext::Batch(queued)) => self.batches.push_back(queued),
            Ok(KeptNext::Later) => {
                thread::sleep(timeout.min(LATER));
                return Some(Missing::Yet);
            }
            Ok(KeptNext::InQueue) => self.stage = None,
            Err(how) => return Some(Missing::Damaged(how)),
        }
        None
    }

    /// A replay begins, with guest memory for `taker`. That of a cold backup is of what it has kept, from the
    /// last complete state on: until then there is no entry. The rest follows as it comes. To be called
    /// once.
    ///
    /// # Errors
    /// What was kept cannot be read back, or the host has no room for threads: for this reason.
    pub fn begin_replay(&mut self, taker: Arc<dyn TakeMemory>) -> Result<(), String> {
        match (&mut self.stage, &self.shared.keeping) {
            (Some(stage), Some(keeping)) => {
                *stage = Stage::Reading(keeping.read(taker)?);
                Ok(())
            }
            _ => {
                let taker: Arc<dyn TakeBlocks> = taker;
                let begun = self.handle().read_memory(&taker);
                begun.map_err(|error| error.to_string())
            }
        }
    }

    /// Whether this is a cold backup that has not replayed what it has kept.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        self.stage.is_some()
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
        if self.is_cold() {
            return; // what is kept counts
        }
        let at_hand = self.current.entries.as_slice();
        let nothing_left = at_hand.is_empty() && self.batches.is_empty();
        self.shared.note_executed(lsn, nothing_left);
    }

    /// The sockets of the memory streams; see [`Sender::bare_sockets`](crate::sender::Sender::bare_sockets).
    ///
    /// # Errors
    /// [`io::Error`], if the host has no room for more open files.
    pub fn bare_sockets(&self) -> io::Result<Vec<TcpStream>> {
        streams::sockets(&self.shared.memory)
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
        streams::read(self.shared.memory.clone(), taker)
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

    /// When the primary was heard last: its log, or a heartbeat.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.shared.last_heard()
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

    /// What this cold backup has kept; `None` if it is none. With a timeout, waits so long at most for
    /// that to change.
    #[must_use]
    pub fn kept(&self, timeout: Duration) -> Option<Kept> {
        Some(self.shared.keeping.as_ref()?.kept(timeout))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.close();
        self.beating = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
