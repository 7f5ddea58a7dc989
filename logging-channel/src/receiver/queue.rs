//! The backup's buffer: decoded batches on their way from the network to the replay.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::codec::Batch;
use crate::entry::Entry;

/// Batches that wait for the replay.
///
/// The replay takes all that is there under one lock and then works without locks. Room is given
/// back batch by batch as it consumes them, so the bound holds for both sides together.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something was put in and announced, or nothing more will be.
    filled: Condvar,
    /// The replay consumed.
    consumed: Condvar,
    /// Bytes of all batches that were put in and not consumed.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Queued>,
    ended: bool,
    /// The reading thread waits for room.
    full: bool,
}

/// A batch and what it takes in memory.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) batch: Batch,
    pub(super) bytes: usize,
    /// When it was received.
    pub(super) arrived: Instant,
    /// What a cold backup keeps of it; otherwise nothing.
    pub(super) record: Vec<u8>,
}

impl Queued {
    /// `body` is the encoded length: about what the entries' data takes beside themselves.
    pub(super) fn new(batch: Batch, body: usize, record: Vec<u8>) -> Self {
        let bytes = body + record.len() + batch.entries.len() * size_of::<Entry>();
        Self {
            batch,
            bytes,
            arrived: Instant::now(),
            record,
        }
    }

    /// One that was kept since it had arrived. It takes no room of the queue's.
    pub(super) fn read(batch: Batch, arrived: Instant) -> Self {
        Self {
            batch,
            bytes: 0,
            arrived,
            record: Vec::new(),
        }
    }
}

/// What [`Queue::take_all`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Batches,
    TimedOut,
    Ended,
}

impl Queue {
    /// Bytes of all batches that were put in and not consumed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether a batch of `bytes` may be put in. One that is larger than the bound may when there
    /// is no other.
    pub(super) fn has_room(&self, bytes: usize, bound: usize) -> bool {
        let queued = self.bytes();
        queued == 0 || queued + bytes <= bound
    }

    /// Puts a batch in. The replay does not hear of it before [`Queue::announce`].
    pub(super) fn put(&self, queued: Queued) {
        self.bytes.fetch_add(queued.bytes, Ordering::AcqRel);
        self.waiting.lock().batches.push_back(queued);
    }

    /// Wakes the replay for what was put in. All who wait: of a cold backup, another thread may be about to
    /// leave it to the replay.
    pub(super) fn announce(&self) {
        self.filled.notify_all();
    }

    /// Nothing more will be put in.
    pub(super) fn end(&self) {
        self.waiting.lock().ended = true;
        self.filled.notify_all();
    }

    /// Waits for the replay to consume a good part of what is there, at most `timeout`.
    pub(super) fn wait_for_room(&self, bytes: usize, bound: usize, timeout: Duration) {
        let mut waiting = self.waiting.lock();
        waiting.full = true;
        let full = |_: &mut Waiting| !self.has_room(bytes, bound);
        self.consumed.wait_while_for(&mut waiting, full, timeout);
        waiting.full = false;
    }

    /// Waits for something, at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Taken {
        let mut waiting = self.waiting.lock();
        let empty = |waiting: &mut Waiting| waiting.batches.is_empty() && !waiting.ended;
        self.filled.wait_while_for(&mut waiting, empty, timeout);
        match (waiting.ended, waiting.batches.is_empty()) {
            (true, _) => Taken::Ended,
            (false, false) => Taken::Batches,
            (false, true) => Taken::TimedOut,
        }
    }

    /// No batch is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().batches.is_empty()
    }

    /// Takes the first batch, if there is one.
    pub(super) fn take_one(&self) -> Option<Queued> {
        self.waiting.lock().batches.pop_front()
    }

    /// Moves everything into `into`, which is empty; waits for something, at most `timeout`.
    pub(super) fn take_all(&self, into: &mut VecDeque<Queued>, timeout: Duration) -> Taken {
        let mut waiting = self.waiting.lock();
        let empty = |waiting: &mut Waiting| waiting.batches.is_empty() && !waiting.ended;
        self.filled.wait_while_for(&mut waiting, empty, timeout);
        if !waiting.batches.is_empty() {
            std::mem::swap(&mut waiting.batches, into);
            Taken::Batches
        } else if waiting.ended {
            Taken::Ended
        } else {
            Taken::TimedOut
        }
    }

    /// A batch of `bytes` was consumed.
    pub(super) fn consumed(&self, bytes: usize, bound: usize) {
        let left = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        // Half: the reading thread is woken to read a lot, not for every batch. It looks by itself
        // from time to time, so a wake-up that is not given here costs little.
        if left <= bound / 2 && self.waiting.lock().full {
            self.consumed.notify_one();
        }
    }
}
