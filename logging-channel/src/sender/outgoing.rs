//! The primary's buffer: entries on their way from the vCPU's thread to the network.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::codec::{BatchEncoder, Kind, KindCounts, UnsealedBatch};
use crate::entry::{Entry, Lsn};

/// How the sending thread waits, so that an append wakes it only if nothing else will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sleep {
    /// Not at all: it will look at the buffer before it sleeps.
    Awake,
    /// Until the linger time is over: it will find a small batch by itself.
    Napping,
    /// Until it is woken.
    Deep,
}

/// The buffer. Entries are encoded as they are appended, so that it holds bytes and not entries.
#[derive(Debug)]
pub(super) struct Outgoing {
    open: BatchEncoder,
    /// When the open batch got its first entry.
    opened: Instant,
    sealed: VecDeque<UnsealedBatch>,
    /// Bytes in `open` and `sealed`.
    pub(super) buffered: usize,
    /// Something waits for what is buffered, or a flush could not be completed without waiting.
    pub(super) flush: bool,
    pub(super) sleep: Sleep,
    /// A vCPU waits for room.
    pub(super) stalling: bool,
    /// LSN of the next entry once the peer is lost and nothing is encoded any more.
    after_loss: Option<Lsn>,
    pub(super) counters: Counters,
}

/// What was appended and sent so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) entries: u64,
    pub(super) dropped: u64,
    pub(super) kinds: KindCounts,
    pub(super) batches: u64,
    pub(super) bytes: u64,
    pub(super) stalls: u64,
    pub(super) stalled: Duration,
}

/// What an append did to the buffer.
pub(super) struct Appended {
    pub(super) lsn: Lsn,
    /// The batch was empty before.
    pub(super) opened: Option<Instant>,
    /// A batch is complete.
    pub(super) sealed: bool,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            open: BatchEncoder::new(Lsn::FIRST),
            opened: Instant::now(),
            sealed: VecDeque::new(),
            buffered: 0,
            flush: false,
            sleep: Sleep::Awake,
            stalling: false,
            after_loss: None,
            counters: Counters::default(),
        }
    }

    /// Appends an entry and closes its batch if it reaches `limit` bytes.
    ///
    /// # Panics
    /// If the entry cannot be logged.
    pub(super) fn append(&mut self, entry: &Entry, limit: usize) -> Appended {
        let before = self.open.len();
        let lsn = match self.open.push(entry) {
            Ok(lsn) => lsn,
            // The engine bounds its inputs and counts exits upwards; a log without this entry
            // would diverge, silently.
            Err(error) => panic!("an entry that cannot be logged: {error}: {entry:?}"),
        };
        let opened = (before == 0).then(Instant::now);
        if let Some(now) = opened {
            self.opened = now;
        }
        let grown = self.open.len() - before;
        self.buffered += grown;
        self.counters.entries += 1;
        self.counters
            .kinds
            .add(Kind::of(&entry.payload), grown as u64);
        let sealed = self.open.len() >= limit || self.open.is_full();
        if sealed {
            self.sealed.extend(self.open.take());
        }
        Appended {
            lsn,
            opened,
            sealed,
        }
    }

    /// Counts an entry that nobody will receive.
    pub(super) fn drop_entry(&mut self) -> Lsn {
        let lsn = self.after_loss.unwrap_or(self.open.next_lsn());
        self.after_loss = Some(lsn.next());
        self.counters.entries += 1;
        self.counters.dropped += 1;
        lsn
    }

    /// Takes the next batch to send: a complete one, or the open one if `all` is wanted.
    pub(super) fn take(&mut self, all: bool) -> Option<UnsealedBatch> {
        let batch = match self.sealed.pop_front() {
            Some(batch) => batch,
            None if all => self.open.take()?,
            None => return None,
        };
        self.buffered -= batch.byte_len();
        self.counters.batches += 1;
        self.counters.bytes += batch.byte_len() as u64;
        Some(batch)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// A batch is complete.
    pub(super) fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// When the open batch is to be sent if nothing else happens.
    pub(super) fn due(&self, linger: Duration) -> Option<Instant> {
        (!self.open.is_empty()).then(|| self.opened + linger)
    }
}
