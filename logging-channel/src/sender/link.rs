//! What the primary's threads share, and what each of them does.

mod acks;
mod peer;
mod releasing;

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use transport::Stream;

pub use self::releasing::Release;
use self::releasing::Releasing;
use super::outgoing::{Outgoing, Sleep};
use super::told::{Commit, Finish, SenderStats};
use crate::control::Control;
use crate::entry::{Entry, Lsn};
use crate::heartbeat::{Arrivals, LastHeard};
use crate::loss::{Loss, LossReason};
use crate::protocol::{self, Permit, PrimaryEnd};
use crate::session::SessionInfo;
use crate::settings::Settings;
use crate::socket::Tail;

/// How often a cold backup is told how much of a processor the guest has used.
const USED_STEP: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    pub(super) info: SessionInfo,
    stream: Stream,
    pub(super) memory: Vec<Stream>,

    outgoing: Mutex<Outgoing>,
    /// The buffer has room again.
    room: Condvar,
    /// There is something for the sending thread to do.
    work: Condvar,
    /// Who holds it writes to the stream. Taken before `outgoing`, never after.
    writer: Mutex<Writer>,

    /// What is decided. Taken after `outgoing`, never before.
    end: Mutex<PrimaryEnd>,
    /// What it knows, for those who look often.
    acked: AtomicU64,
    executed: AtomicU64,
    /// The lag is beyond its bound.
    pub(super) behind: AtomicBool,
    /// The backup asks for the whole state.
    pub(super) state_wanted: AtomicBool,
    /// A cold backup asks for it.
    pub(super) renewal_wanted: AtomicBool,
    /// The backup does not find counted stops any more.
    pub(super) uncounted: AtomicBool,
    /// What a cold backup is told of the guest.
    pub(super) used: OnceLock<Used>,

    pub(super) releasing: Releasing,
    throttles: AtomicU64,
    throttled_nanos: AtomicU64,

    /// Guards nothing: those who wait for acknowledgements, lag or the session's end look at the
    /// atomics.
    progress: Mutex<()>,
    progressed: Condvar,

    traffic: LastHeard,
    pub(super) arrivals: Mutex<Arrivals>,
    pub(super) loss: Arc<Loss>,
}

#[derive(Debug, Default)]
struct Writer {
    tail: Tail,
    /// What the backup was last told.
    released: Lsn,
    used: Duration,
}

/// How much of a processor the guest has used.
pub(super) struct Used(pub(super) Box<dyn Fn() -> Duration + Send + Sync>);

impl fmt::Debug for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Used")
    }
}

impl Shared {
    pub(super) fn new(
        stream: Stream,
        memory: Vec<Stream>,
        info: SessionInfo,
        settings: Settings,
    ) -> Self {
        let end = PrimaryEnd::new(&settings, info.heartbeat_timeout, Instant::now());
        Self {
            settings,
            info,
            stream,
            memory,
            outgoing: Mutex::new(Outgoing::new()),
            room: Condvar::new(),
            work: Condvar::new(),
            writer: Mutex::new(Writer::default()),
            end: Mutex::new(end),
            acked: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            state_wanted: AtomicBool::new(false),
            renewal_wanted: AtomicBool::new(false),
            uncounted: AtomicBool::new(false),
            used: OnceLock::new(),
            releasing: Releasing::default(),
            throttles: AtomicU64::new(0),
            throttled_nanos: AtomicU64::new(0),
            progress: Mutex::new(()),
            progressed: Condvar::new(),
            traffic: LastHeard::new(),
            arrivals: Mutex::default(),
            loss: Arc::new(Loss::new()),
        }
    }

    fn lock_outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock()
    }

    pub(super) fn lock_end(&self) -> MutexGuard<'_, PrimaryEnd> {
        self.end.lock()
    }

    /// Ends the session, unless it is over already, and wakes everyone who waits.
    pub(crate) fn lose(&self, reason: LossReason) {
        self.loss.declare(reason);
        // Wakes the threads in the streams' calls.
        for stream in self.memory.iter().chain([&self.stream]) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Whoever is between looking at `loss` and waiting holds the lock: after it was taken
        // once, they either wait or will see it.
        drop(self.lock_outgoing());
        self.room.notify_all();
        self.work.notify_all();
        self.announce_progress();
    }

    fn announce_progress(&self) {
        drop(self.progress.lock());
        self.progressed.notify_all();
    }

    pub(super) fn wait_progress(&self, timeout: Duration, mut until: impl FnMut() -> bool) {
        if until() {
            return;
        }
        let mut guard = self.progress.lock();
        self.progressed
            .wait_while_for(&mut guard, |()| !until(), timeout);
    }

    pub(super) fn acked(&self) -> Lsn {
        Lsn(self.acked.load(Ordering::Acquire))
    }

    pub(super) fn executed(&self) -> Lsn {
        Lsn(self.executed.load(Ordering::Acquire))
    }

    pub(super) fn note_released(&self, lsn: Lsn) {
        self.lock_end().note_released(lsn);
    }

    pub(super) fn wait_committed(&self, lsn: Lsn, timeout: Duration) -> Commit {
        self.wait_progress(timeout, || self.acked() >= lsn || self.loss.is_over());
        // Whether the session is over is asked first, so that an acknowledgement which came just
        // before the end counts.
        match (self.loss.is_over(), self.acked() >= lsn) {
            (_, true) => Commit::Committed,
            (true, false) => Commit::PeerLost,
            (false, false) => Commit::TimedOut,
        }
    }

    pub(super) fn append(&self, entry: &Entry, wake: bool) -> Lsn {
        let mut outgoing = self.lock_outgoing();
        if outgoing.buffered >= self.settings.send_buffer && !self.loss.is_over() {
            self.stall(&mut outgoing);
        }
        if self.loss.is_over() {
            return outgoing.drop_entry();
        }
        let appended = outgoing.append(entry, self.settings.batch_limit());
        // Still under the lock: once it is sent, its acknowledgement may come.
        let now = || appended.opened.unwrap_or_else(Instant::now);
        let noted = protocol::Appended {
            lsn: appended.lsn,
            opens_batch: appended.opened.is_some(),
        };
        self.lock_end().append(noted, &entry.payload, now);
        let wake = match outgoing.sleep {
            Sleep::Awake => false,
            Sleep::Napping => appended.sealed,
            Sleep::Deep => appended.sealed || (wake && appended.opened.is_some()),
        };
        if wake {
            outgoing.sleep = Sleep::Awake;
        }
        drop(outgoing);
        if wake {
            self.work.notify_one();
        }
        appended.lsn
    }

    /// Waits until the buffer has room. A quarter of it, so that a full buffer costs a few long
    /// waits rather than one at every entry.
    fn stall(&self, outgoing: &mut MutexGuard<'_, Outgoing>) {
        let since = Instant::now();
        outgoing.stalling = true;
        // The buffer may be full of a batch that is not.
        outgoing.flush = true;
        self.work.notify_one();
        outgoing.counters.stalls += 1;
        let full = |outgoing: &mut Outgoing| {
            outgoing.buffered > self.refill_mark() && !self.loss.is_over()
        };
        self.lock_end().note_held(Some(since));
        self.room.wait_while(outgoing, full);
        self.lock_end().note_held(None);
        outgoing.stalling = false;
        outgoing.counters.stalled += since.elapsed();
    }

    fn refill_mark(&self) -> usize {
        self.settings.send_buffer / 4 * 3
    }

    pub(super) fn flush(&self) {
        {
            let mut outgoing = self.lock_outgoing();
            if outgoing.is_empty() || self.loss.is_over() {
                return;
            }
            outgoing.flush = true;
        }
        let done = match self.writer.try_lock() {
            Some(mut writer) => self.drain(&mut writer, true, false),
            None => Ok(false),
        };
        match done {
            Ok(true) => {}
            // Another thread writes, or the socket is full: the sending thread may wait.
            Ok(false) => {
                self.lock_outgoing().flush = true;
                self.work.notify_one();
            }
            Err(_) => self.lose(LossReason::Closed),
        }
    }

    /// Writes complete batches, and the open one if `all` is wanted. Without `wait`, stops when
    /// the socket is full and returns `false`.
    fn drain(&self, writer: &mut Writer, all: bool, wait: bool) -> io::Result<bool> {
        loop {
            if wait {
                (&self.stream).write_all(writer.tail.rest())?;
                (&self.stream).flush()?;
                writer.tail.clear();
            } else if !writer.tail.send_now(&self.stream)? {
                return Ok(false);
            }
            let batch = {
                let mut outgoing = self.lock_outgoing();
                let Some(batch) = outgoing.take(all) else {
                    if all {
                        outgoing.flush = false;
                    }
                    return Ok(true);
                };
                if outgoing.stalling && outgoing.buffered <= self.refill_mark() {
                    self.room.notify_one();
                }
                batch
            };
            let mut bytes = batch.seal();
            let released = self.lock_end().released();
            if released > writer.released {
                writer.released = released;
                bytes.extend_from_slice(&Control::Released(released).encode());
            }
            if let Some(Used(used)) = self.used.get() {
                let used = used();
                if used >= writer.used + USED_STEP {
                    writer.used = used;
                    bytes.extend_from_slice(&Control::Used(used).encode());
                }
            }
            writer.tail.push(bytes);
        }
    }

    pub(super) fn send_loop(&self) {
        let mut sent = false;
        while let Some(all) = self.wait_for_work(sent) {
            sent = true;
            let mut writer = self.writer.lock();
            if self.drain(&mut writer, all, true).is_err() {
                drop(writer);
                self.lose(LossReason::Closed);
                return;
            }
        }
    }

    /// Waits until there is something to send, and says whether that includes the open batch.
    /// `None` when the session is over.
    ///
    /// After something was `sent` the thread naps for one linger time before it sleeps for good:
    /// under a steady flow of entries it then wakes once in that time, and nobody pays for waking
    /// it.
    fn wait_for_work(&self, mut sent: bool) -> Option<bool> {
        let linger = self.settings.linger;
        let mut outgoing = self.lock_outgoing();
        let all = loop {
            if self.loss.is_over() {
                return None;
            }
            if outgoing.flush {
                break true;
            }
            if outgoing.has_sealed() {
                break false;
            }
            let now = Instant::now();
            let nap = match outgoing.due(linger) {
                Some(due) if due <= now => break true,
                Some(due) => Some(due - now),
                None if sent => Some(linger),
                None => None,
            };
            if let Some(nap) = nap {
                outgoing.sleep = Sleep::Napping;
                if self.work.wait_for(&mut outgoing, nap).timed_out() {
                    sent = false;
                    if !outgoing.is_empty() {
                        break true;
                    }
                }
            } else {
                outgoing.sleep = Sleep::Deep;
                self.work.wait(&mut outgoing);
            }
        };
        outgoing.sleep = Sleep::Awake;
        Some(all)
    }

    /// Waits until the backup has caught up or is lost.
    pub(super) fn hold(&self) {
        let since = Instant::now();
        let caught_up = || !self.behind.load(Ordering::Relaxed) || self.loss.is_over();
        self.throttles.fetch_add(1, Ordering::Relaxed);
        self.lock_end().note_held(Some(since));
        while !caught_up() {
            self.wait_progress(Duration::from_secs(1), caught_up);
        }
        self.lock_end().note_held(None);
        self.throttled_nanos
            .fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn finish(&self, timeout: Duration) -> Finish {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let last = self.lock_end().appended();
        self.flush();
        match self.wait_committed(last, left()) {
            Commit::Committed => {}
            Commit::PeerLost => return self.finished(),
            Commit::TimedOut => {
                self.lose(LossReason::Closed);
                return Finish::TimedOut;
            }
        }
        let released = {
            let mut end = self.lock_end();
            end.finish();
            end.released()
        };
        {
            let mut writer = self.writer.lock();
            let mut bytes = Control::Released(released).encode().to_vec();
            bytes.extend_from_slice(&Control::Goodbye(last).encode());
            writer.tail.push(bytes);
            // The backup has read everything before: these few bytes fit.
            let _ = self.drain(&mut writer, true, false);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
        // The backup closes when it has read the goodbye. If it does not, it has everything and
        // there is nothing more to do for it.
        self.wait_progress(left(), || self.loss.is_over());
        self.lose(LossReason::Orderly);
        self.finished()
    }

    fn finished(&self) -> Finish {
        match self.loss.reason() {
            Some(LossReason::Orderly) | None => Finish::Orderly,
            Some(reason) => Finish::PeerLost(reason.clone()),
        }
    }

    /// Lets out what `permit` says.
    pub(super) fn release(&self, permit: Permit) {
        if let Some(lsn) = self.releasing.call(permit) {
            self.note_released(lsn);
        }
    }

    pub(super) fn stats(&self) -> SenderStats {
        let (counters, buffered) = {
            let outgoing = self.lock_outgoing();
            (outgoing.counters, outgoing.buffered)
        };
        let mut end = self.lock_end();
        let lags = end.lags().figures();
        SenderStats {
            entries: counters.entries,
            dropped: counters.dropped,
            bytes: counters.bytes,
            batches: counters.batches,
            kinds: counters.kinds,
            buffered,
            stalls: counters.stalls,
            stalled: counters.stalled,
            throttles: self.throttles.load(Ordering::Relaxed),
            throttled: Duration::from_nanos(self.throttled_nanos.load(Ordering::Relaxed)),
            round_trip: end.round_trip(),
            arrivals: *self.arrivals.lock(),
            lag: end.lag(Instant::now()),
            lags,
            appended: end.appended(),
            acked: end.acked(),
            executed: end.executed(),
            released: end.released(),
        }
    }
}
