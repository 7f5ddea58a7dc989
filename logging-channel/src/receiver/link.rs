//! What the backup's threads share, and what the reading thread does.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use transport::Stream;

use super::keeping::{Keeping, Link};
use super::queue::{Queue, Queued};
use super::stats::ReceiverStats;
use crate::codec::{BatchHeader, HEADER_LEN, LogOrder, MAX_BODY};
use crate::control::{CONTROL_MAGIC, Control};
use crate::entry::Lsn;
use crate::heartbeat::{Arrivals, LastHeard, Monitored, Role};
use crate::loss::{Loss, LossReason};
use crate::protocol::{BackupEnd, FromPrimary, Heard, REPORT};
use crate::session::SessionInfo;
use crate::settings::Settings;
use crate::socket::Tail;

/// What is read at once, at least.
const READ_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Shared {
    settings: Settings,
    pub(super) info: SessionInfo,
    stream: Stream,
    pub(super) memory: Vec<Stream>,
    pub(super) queue: Queue,
    /// Of a cold backup.
    pub(super) keeping: Option<Arc<Keeping>>,

    received: AtomicU64,
    acked: AtomicU64,
    executed: AtomicU64,
    caught_up: CaughtUp,
    released: AtomicU64,
    /// Entry at which the replay differed and the primary was not told yet; 0 for none.
    pub(super) differed: AtomicU64,
    /// It finds counted stops no more.
    pub(super) uncounted: AtomicBool,
    batches: AtomicU64,
    bytes: AtomicU64,
    stalls: AtomicU64,

    /// When the disk server answered this host.
    pub(super) storage: Mutex<Option<Instant>>,
    traffic: LastHeard,
    beats: LastHeard,
    arrivals: Mutex<Arrivals>,
    /// The replay is gone: nobody waits for what is still to be read.
    closed: AtomicBool,
    pub(super) loss: Loss,
}

impl Shared {
    pub(super) fn new(
        stream: Stream,
        memory: Vec<Stream>,
        info: SessionInfo,
        settings: Settings,
        keeping: Option<Arc<Keeping>>,
    ) -> Self {
        Self {
            settings,
            info,
            stream,
            memory,
            queue: Queue::default(),
            keeping,
            received: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            caught_up: CaughtUp::new(),
            released: AtomicU64::new(0),
            differed: AtomicU64::new(0),
            uncounted: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            storage: Mutex::default(),
            traffic: LastHeard::new(),
            beats: LastHeard::new(),
            arrivals: Mutex::default(),
            closed: AtomicBool::new(false),
            loss: Loss::new(),
        }
    }

    /// Ends the session, unless it is over already. The reading thread still takes what the
    /// socket holds.
    pub(super) fn lose(&self, reason: LossReason) {
        self.loss.declare(reason);
        for stream in self.memory.iter().chain([&self.stream]) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The replay is gone.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.lose(LossReason::Closed);
    }

    pub(super) fn consumed(&self, bytes: usize) {
        self.queue.consumed(bytes, self.settings.receive_buffer);
    }

    /// When the primary was heard last: its log, or a heartbeat.
    pub(super) fn last_heard(&self) -> Instant {
        self.traffic.get().max(self.beats.get())
    }

    pub(super) fn released(&self) -> Lsn {
        Lsn(self.released.load(Ordering::Relaxed))
    }

    /// The primary says that its outputs up to `lsn` have left.
    fn note_released(&self, lsn: Lsn) {
        self.released.fetch_max(lsn.0, Ordering::Relaxed);
    }

    fn executed(&self) -> Lsn {
        Lsn(self.executed.load(Ordering::Relaxed))
    }

    /// Everything up to `lsn` was executed, and with `nothing_left` nothing else is there.
    pub(super) fn note_executed(&self, lsn: Lsn, nothing_left: bool) {
        if nothing_left {
            self.caught_up.note(lsn);
        }
        self.executed.store(lsn.0, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> ReceiverStats {
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let received = number(&self.received);
        ReceiverStats {
            entries: received,
            bytes: number(&self.bytes),
            batches: number(&self.batches),
            queued_bytes: self.queue.bytes(),
            stalls: number(&self.stalls),
            received: Lsn(received),
            acked: Lsn(number(&self.acked)),
            executed: self.executed(),
            released: self.released(),
            arrivals: *self.arrivals.lock(),
        }
    }

    /// Reads until the session is over.
    pub(super) fn read_loop(&self) {
        let reason = Reading::new(self).run();
        self.lose(reason);
        self.queue.end();
    }
}

impl Link for Shared {
    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn consumed(&self, bytes: usize) {
        self.consumed(bytes);
    }

    fn note_executed(&self, lsn: Lsn, nothing_left: bool) {
        self.note_executed(lsn, nothing_left);
    }

    fn lose(&self, reason: LossReason) {
        self.lose(reason);
    }
}

/// When the replay had executed everything that it was given.
#[derive(Debug)]
struct CaughtUp {
    start: Instant,
    micros: AtomicU64,
    lsn: AtomicU64,
}

impl CaughtUp {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            micros: AtomicU64::new(0),
            lsn: AtomicU64::new(0),
        }
    }

    fn note(&self, lsn: Lsn) {
        // In this order: whoever sees the LSN sees its time, or a later one.
        let micros = self.start.elapsed().as_micros() as u64;
        self.micros.store(micros, Ordering::Release);
        self.lsn.store(lsn.0, Ordering::Release);
    }

    /// How long ago `executed` was executed, if nothing was left then; otherwise zero.
    fn ago(&self, executed: Lsn) -> Duration {
        if self.lsn.load(Ordering::Acquire) != executed.0 {
            return Duration::ZERO;
        }
        let then = Duration::from_micros(self.micros.load(Ordering::Acquire));
        self.start.elapsed().saturating_sub(then)
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The reading thread's own.
struct Reading<'a> {
    shared: &'a Shared,
    order: LogOrder,
    /// What the stream did not take of acknowledgements.
    tail: Tail,
    /// Read from the stream and not yet taken: `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    protocol: BackupEnd,
}

impl<'a> Reading<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            order: LogOrder::default(),
            tail: Tail::default(),
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            protocol: BackupEnd::default(),
        }
    }

    fn run(&mut self) -> LossReason {
        loop {
            let read = self.wait().and_then(|ready| match ready {
                true => self.read(),
                false => Ok(None),
            });
            self.look_at_kept();
            let read = match read {
                // Nothing to read: only progress to report.
                Ok(None) => {
                    self.acknowledge();
                    continue;
                }
                Ok(Some(read)) => read,
                Err(_) => return LossReason::Closed,
            };
            if read == 0 {
                return LossReason::Closed;
            }
            self.shared.traffic.set();
            match self.take_messages() {
                Ok(false) => {
                    // The primary's outputs wait for this, so it comes before the replay, which
                    // takes the processor where there is only one.
                    if self.protocol.is_due(Instant::now()) {
                        self.acknowledge();
                    }
                    self.shared.queue.announce();
                }
                Ok(true) => return LossReason::Orderly,
                Err(what) => return LossReason::Protocol(what),
            }
        }
    }

    /// Waits for something to read, or until progress is to be looked at.
    fn wait(&mut self) -> io::Result<bool> {
        let unsaid = !self.tail.is_empty() || self.shared.differed.load(Ordering::Relaxed) != 0;
        let timeout = self.protocol.next_report(Instant::now(), unsaid);
        let stream = &self.shared.stream;
        let Some(keeping) = &self.shared.keeping else {
            return Ok(stream.wait_readable(&[], timeout)?[0]);
        };
        let ready = stream.wait_readable(&[keeping.wake()], timeout)?;
        if ready[1] {
            keeping.woke();
        }
        Ok(ready[0])
    }

    /// What a cold backup has on its disk is received: where that matters, only then.
    fn look_at_kept(&mut self) {
        let Some(keeping) = &self.shared.keeping else {
            return;
        };
        let received = keeping.acknowledgeable(self.order.last());
        if received > self.protocol.received() {
            self.protocol.receive(received, true, Instant::now());
        }
    }

    /// Reads what there is; `None` if that is nothing yet.
    fn read(&mut self) -> io::Result<Option<usize>> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // Only a batch larger than the buffer fills it, and its header was checked.
            let larger = (self.buffer.len() * 2).min(HEADER_LEN + MAX_BODY);
            self.buffer.resize(larger, 0);
        }
        match self.shared.stream.read_now(&mut self.buffer[self.end..]) {
            Ok(n) => {
                self.end += n;
                Ok(Some(n))
            }
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes every whole message that was read; `true` after a goodbye.
    fn take_messages(&mut self) -> Result<bool, String> {
        while let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER_LEN>() {
            if header[..4] == CONTROL_MAGIC {
                let control = Control::decode(header).map_err(|error| error.to_string())?;
                self.start += HEADER_LEN;
                match self.protocol.hear(control)? {
                    FromPrimary::Released(lsn) => self.shared.note_released(lsn),
                    FromPrimary::Used(used) => {
                        if let Some(keeping) = &self.shared.keeping {
                            keeping.note_used(used);
                        }
                    }
                    FromPrimary::End => return Ok(true),
                }
                continue;
            }
            let header = BatchHeader::decode(header).map_err(|error| error.to_string())?;
            let body = self.start + HEADER_LEN..self.start + HEADER_LEN + header.body_len();
            if body.end > self.end {
                return Ok(false);
            }
            let batch = header
                .decode_body(&self.buffer[body.clone()])
                .map_err(|error| error.to_string())?;
            self.order
                .admit(&batch)
                .map_err(|error| error.to_string())?;
            let shared = self.shared;
            let whole = &self.buffer[self.start..body.end];
            let record = shared.keeping.as_ref().map(|keeping| keeping.record(whole));
            self.start = body.end;
            let awaited = (batch.entries.iter()).any(|entry| entry.payload.is_awaited());
            self.put(Queued::new(batch, body.len(), record.unwrap_or_default()));

            let len = HEADER_LEN + body.len();
            shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
            shared.batches.fetch_add(1, Ordering::Relaxed);
            let last = self.order.last();
            shared.received.store(last.0, Ordering::Relaxed);
            // Only now: while it waited for room, what came before was acknowledged, and not this.
            let keeping = shared.keeping.as_ref();
            if keeping.is_none_or(|keeping| keeping.acknowledgeable(last) == last) {
                self.protocol.receive(last, awaited, Instant::now());
            }
        }
        Ok(false)
    }

    /// Puts a batch into the queue, without a word to the replay; waits for room.
    fn put(&mut self, queued: Queued) {
        let shared = self.shared;
        let bound = shared.settings.receive_buffer;
        if !shared.queue.has_room(queued.bytes, bound) {
            shared.stalls.fetch_add(1, Ordering::Relaxed);
            while !shared.queue.has_room(queued.bytes, bound)
                && !shared.closed.load(Ordering::Acquire)
            {
                // What is in the queue already is acknowledged before this waits.
                self.look_at_kept();
                self.acknowledge();
                shared.queue.announce();
                shared.queue.wait_for_room(queued.bytes, bound, REPORT);
            }
        }
        shared.queue.put(queued);
    }

    /// Tells the primary what was received and executed, if it does not know.
    fn acknowledge(&mut self) {
        let shared = self.shared;
        // A socket that does not take this now takes it at the next report, and newer numbers
        // with it. Errors show at the next read.
        let open = !shared.loss.is_over() && matches!(self.tail.send_now(&shared.stream), Ok(true));
        let report = self.protocol.report(shared.executed(), open);
        let differed = match open {
            true => shared.differed.swap(0, Ordering::AcqRel),
            false => 0,
        };
        if differed != 0 {
            let message = Control::NeedState {
                differed: Lsn(differed),
                uncounted: shared.uncounted.load(Ordering::Relaxed),
            };
            self.tail.push(message.encode().to_vec());
        }
        if open
            && shared
                .keeping
                .as_ref()
                .is_some_and(|keeping| keeping.asks())
        {
            self.tail.push(Control::Renew.encode().to_vec());
        }
        if let Some((received, executed)) = report {
            let message = Control::Acknowledge {
                received,
                executed,
                idle: shared.caught_up.ago(executed),
            };
            self.tail.push(message.encode().to_vec());
        }
        if !self.tail.is_empty() && open {
            let _ = self.tail.send_now(&shared.stream);
        }
        if let Some((received, _)) = report {
            shared.acked.store(received.0, Ordering::Relaxed);
        }
    }
}

impl Monitored for Shared {
    const ROLE: Role = Role::Backup;

    fn traffic(&self) -> &LastHeard {
        &self.traffic
    }

    fn released(&self) -> Lsn {
        Lsn(0)
    }

    fn storage(&self, now: Instant) -> Option<Duration> {
        let answered = *self.storage.lock();
        Some(now.saturating_duration_since(answered?))
    }

    fn heard(&self, heard: &Heard) {
        self.beats.set();
        *self.arrivals.lock() = heard.arrivals;
        self.note_released(heard.released);
    }

    fn look_interval(&self) -> Option<Duration> {
        None
    }

    /// A log that stands still says nothing of the primary: its guest may have nothing to say. A
    /// primary that finds this end to stand still falls silent.
    fn look(&self, _: Instant) {}

    fn lose(&self, reason: LossReason) {
        Shared::lose(self, reason);
    }

    fn is_over(&self) -> bool {
        self.loss.is_over()
    }
}
