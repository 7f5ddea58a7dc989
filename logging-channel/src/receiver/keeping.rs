//! A cold backup: a thread that puts what comes on the disk, until somebody replays it.
//!
//! ```text
//!   reading thread ──▶ queue ──▶ keeping thread ──▶ spool ──▶ replay, once it begins
//!                        └───────────────────────────────────▶ replay, once it has read all of the spool
//! ```

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};

use super::memory::KeptMemory;
use super::queue::{Queue, Queued, Taken};
use super::spool::{ClockEntry, Ended, Generation, Notice, Spool, SpoolError, SpoolReader, record};
use crate::entry::Lsn;
use crate::loss::LossReason;
use crate::memory::TakeMemory;
use crate::settings::Keep;

/// How long the thread sleeps when nothing comes.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes, and time, after which is said what was kept of many that wait.
const AT_ONCE: usize = 1 << 20;
const TIME_AT_ONCE: Duration = Duration::from_millis(10);

/// How fast a state is taken over, about: bytes in a second, on a slow disk.
const STATE_BYTES_PER_SECOND: f64 = 200e6;

/// What a cold backup has kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What a replay begins from, and how much there is.
    pub generation: Generation,
    /// How long it takes until this host can go live, about.
    pub replay: Duration,
    /// The primary has told that this host protects the guest.
    pub is_protecting: bool,
    /// What the primary has told of the disk.
    pub notices: Vec<Notice>,
    /// What the primary has told last of the guest's clocks.
    pub clocks: Vec<ClockEntry>,
    /// The guest has ended on the primary.
    pub ended: Option<Ended>,
    /// The session is over, and all that came is kept.
    pub is_over: bool,
    /// It cannot be kept, or read back.
    pub failure: Option<String>,
}

/// What a cold backup keeps comes from here.
pub(super) trait Link {
    /// What came.
    fn queue(&self) -> &Queue;
    /// So many bytes of that were kept.
    fn consumed(&self, bytes: usize);
    /// See [`Receiver::executed`](super::Receiver::executed).
    fn note_executed(&self, lsn: Lsn, nothing_left: bool);
    /// Ends the session.
    fn lose(&self, reason: LossReason);
}

/// What the threads of a cold backup share.
#[derive(Debug)]
pub(crate) struct Keeping {
    keep: Keep,
    opened: Instant,
    memory: Arc<KeptMemory>,
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
    /// Last entry that is kept; with [`Keep::durable`], on the disk.
    kept: AtomicU64,
    /// What is acknowledged does not depend on that: the replay has what comes.
    is_direct: AtomicBool,
    /// What the primary's guest has used of a processor, in microseconds.
    used: AtomicU64,
    /// The primary is to be asked for the state.
    asks: AtomicBool,
    /// Wakes the reading thread.
    wake: EventFd,
}

#[derive(Debug)]
struct State {
    spool: Spool,
    /// The primary was asked for another state than the one that begins here.
    asked: Option<Lsn>,
    /// The replay has read all of the spool, and takes what comes.
    is_read: bool,
    /// A batch was taken from the queue, and is not kept yet.
    is_busy: bool,
    is_over: bool,
    failure: Option<String>,
}

/// What comes next of what a cold backup keeps.
pub(super) enum KeptNext {
    Batch(Queued),
    /// It will be there soon.
    Later,
    /// It is in the queue, like all that follows.
    InQueue,
}

/// What the next entry of a cold backup is read from.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing: it is only kept.
    Held,
    /// The disk.
    Reading(SpoolReader),
}

impl Keeping {
    pub(crate) fn open(keep: &Keep) -> Result<Self, SpoolError> {
        let failed = |error: nix::Error| SpoolError::Directory {
            path: keep.directory.clone(),
            source: error.into(),
        };
        let spool = Spool::open(keep)?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            opened: spool.opened(),
            memory: Arc::new(KeptMemory::new(keep)),
            state: Mutex::new(State {
                spool,
                asked: None,
                is_read: false,
                is_busy: false,
                is_over: false,
                failure: None,
            }),
            keep: keep.clone(),
            changed: Condvar::new(),
            kept: AtomicU64::new(0),
            is_direct: AtomicBool::new(!keep.durable),
            used: AtomicU64::new(0),
            asks: AtomicBool::new(false),
            wake: EventFd::from_flags(flags).map_err(failed)?,
        })
    }

    /// A batch as it came, to be kept.
    pub(super) fn record(&self, batch: &[u8]) -> Vec<u8> {
        record(self.opened.elapsed(), batch)
    }

    /// Of the entries up to `received`, those that may be acknowledged.
    pub(super) fn acknowledgeable(&self, received: Lsn) -> Lsn {
        match self.is_direct.load(Ordering::Acquire) {
            true => received,
            false => Lsn(self.kept.load(Ordering::Acquire)),
        }
    }

    /// Can be read when the reading thread has something to look at.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// It has looked.
    pub(super) fn woke(&self) {
        let _ = self.wake.read();
    }

    /// The primary's guest has used so much of a processor.
    pub(super) fn note_used(&self, used: Duration) {
        self.used.store(used.as_micros() as u64, Ordering::Relaxed);
    }

    /// Whether the primary is to be asked for the state; told once.
    pub(super) fn asks(&self) -> bool {
        self.asks.swap(false, Ordering::AcqRel)
    }

    /// Keeps what comes until the session is over, or the replay has read all of it.
    pub(super) fn keep_loop(&self, link: &impl Link) {
        let mut is_over = false;
        while !is_over {
            is_over = link.queue().wait(PATIENCE) == Taken::Ended;
            let kept = self.keep_all(link);
            match kept {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let text = self.note_failure(&error);
                    link.lose(LossReason::NotKept(text));
                    break;
                }
            }
            self.changed.notify_all();
        }
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Keeps what there is. `false` when that is not to be kept any more.
    fn keep_all(&self, link: &impl Link) -> Result<bool, SpoolError> {
        loop {
            let (kept, is_all) = match self.keep_some(link)? {
                Some(kept) => kept,
                None => return Ok(false),
            };
            self.complete()?;
            if kept {
                self.publish(link, is_all)?;
            }
            self.forget();
            if is_all {
                return Ok(true);
            }
        }
    }

    /// Keeps what there is, but not so much at once that the primary would take this host for one that does not
    /// get on. Whether there was something, and whether that was all; nothing when it is not to be kept any
    /// more.
    fn keep_some(&self, link: &impl Link) -> Result<Option<(bool, bool)>, SpoolError> {
        let begun = Instant::now();
        let mut bytes = 0;
        while bytes < AT_ONCE && begun.elapsed() < TIME_AT_ONCE {
            let (queued, memory) = {
                let mut state = self.state.lock();
                // Under the lock: the replay takes what comes from the queue once it has read the spool.
                if state.is_read {
                    return Ok(None);
                }
                let Some(queued) = link.queue().take_one() else {
                    return Ok(Some((bytes > 0, true)));
                };
                state.is_busy = true;
                let memory = state.spool.generations().memory_before(&queued.batch);
                (queued, memory)
            };
            let came = memory.is_none_or(|(transfer, blocks)| self.memory.wait(transfer, blocks));
            let mut state = self.state.lock();
            state.is_busy = false;
            let used = Duration::from_micros(self.used.load(Ordering::Relaxed));
            let Queued {
                batch,
                record,
                arrived,
                ..
            } = &queued;
            state.spool.put(batch, record, *arrived, used)?;
            if !came {
                state.spool.give_up();
                drop(state);
                // It cannot protect the guest, and must not say that it has what the log ends with.
                link.lose(LossReason::Memory(
                    "not all of it has come over its memory streams".into(),
                ));
                return Ok(Some((false, true)));
            }
            link.consumed(queued.bytes);
            bytes += queued.record.len();
        }
        // Nobody else would tell that nothing is left, when the turn ends with the last batch there is.
        Ok(Some((bytes > 0, link.queue().is_empty())))
    }

    /// The state whose last part has come is complete, if its memory is there.
    fn complete(&self) -> Result<(), SpoolError> {
        let ending = self.state.lock().spool.generations().ending();
        let Some((transfer, blocks)) = ending else {
            return Ok(());
        };
        if self.memory.has(transfer, blocks) {
            if self.keep.durable {
                self.memory.sync(transfer)?;
            }
            self.state.lock().spool.complete()?;
        }
        Ok(())
    }

    /// What is kept counts: it is acknowledged, or executed.
    fn publish(&self, link: &impl Link, is_all: bool) -> Result<(), SpoolError> {
        let mut state = self.state.lock();
        if self.keep.durable {
            state.spool.sync()?;
        }
        let last = state.spool.generations().last();
        self.kept.store(last.0, Ordering::Release);
        link.note_executed(last, is_all);
        self.look_for_bounds(&mut state);
        if !self.is_direct.load(Ordering::Relaxed) || self.asks.load(Ordering::Relaxed) {
            let _ = self.wake.write(1);
        }
        Ok(())
    }

    /// What no replay needs goes.
    fn forget(&self) {
        let mut state = self.state.lock();
        state.spool.forget();
        self.memory.forget_but(&state.spool);
    }

    /// Asks for the state when there is too much to replay.
    fn look_for_bounds(&self, state: &mut State) {
        let (begin, is_due) = {
            let generations = state.spool.generations();
            let complete = generations.complete();
            let is_much = complete.log_bytes > self.keep.most_log
                || generations.replay() > self.keep.most_replay;
            let is_due = is_much && generations.is_protecting();
            (complete.begin, is_due)
        };
        if is_due && state.asked != Some(begin) {
            state.asked = Some(begin);
            self.asks.store(true, Ordering::Release);
        }
    }

    /// What is kept. With a timeout, waits for a change.
    pub(super) fn kept(&self, timeout: Duration) -> Kept {
        let mut state = self.state.lock();
        if !timeout.is_zero() {
            self.changed.wait_for(&mut state, timeout);
        }
        let generations = state.spool.generations();
        let mut generation = *generations.complete();
        generation.state_bytes += self.memory.bytes(generation.memory.0);
        let state_time = generation.state_bytes as f64 / STATE_BYTES_PER_SECOND;
        Kept {
            generation,
            replay: generations.replay() + Duration::from_secs_f64(state_time),
            is_protecting: generations.is_protecting(),
            notices: generations.notices().to_vec(),
            clocks: generations.clocks().cloned().collect(),
            ended: generations.ended(),
            is_over: state.is_over,
            failure: state.failure.clone(),
        }
    }

    /// A replay begins, from the last generation on. Its memory, and all that comes later, is for `taker`.
    pub(super) fn read(
        self: &Arc<Self>,
        taker: Arc<dyn TakeMemory>,
    ) -> Result<SpoolReader, String> {
        let mut state = self.state.lock();
        let (transfer, _) = state.spool.generations().complete().memory;
        match state.spool.read() {
            Ok(reader) => {
                let own = Arc::clone(self);
                // Under the lock: a renewal that is complete would forget that memory.
                let given = self
                    .memory
                    .give(transfer, taker, move |error| own.note_failure(error));
                given.map_err(|error| format!("no thread for the guest's memory: {error}"))?;
                Ok(reader)
            }
            Err(error) => Err(Self::fail(&mut state, &error)),
        }
    }

    /// The next batch that is kept. If all were read, what comes is in the queue from now on.
    pub(super) fn next(&self, reader: &mut SpoolReader) -> Result<KeptNext, String> {
        let mut state = self.state.lock();
        match state.spool.next(reader) {
            Ok(Some((arrived, batch))) => Ok(KeptNext::Batch(Queued::read(batch, arrived))),
            Ok(None) if state.is_busy => Ok(KeptNext::Later),
            // What could not be kept comes next, and is gone.
            Ok(None) if state.failure.is_some() => Err(state.failure.clone().unwrap_or_default()),
            Ok(None) => {
                state.is_read = true;
                self.is_direct.store(true, Ordering::Release);
                let _ = self.wake.write(1);
                Ok(KeptNext::InQueue)
            }
            Err(error) => Err(Self::fail(&mut state, &error)),
        }
    }

    /// The memory that is kept.
    pub(super) fn memory(&self) -> Arc<KeptMemory> {
        Arc::clone(&self.memory)
    }

    /// What is kept cannot be kept any longer, or read.
    pub(super) fn note_failure(&self, error: &SpoolError) -> String {
        Self::fail(&mut self.state.lock(), error)
    }

    fn fail(state: &mut State, error: &SpoolError) -> String {
        let text = in_full(error);
        state.failure = Some(text.clone());
        text
    }
}

/// An error with its causes.
fn in_full(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests;
