//! The sending side.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use confinement::Calls;
use logging_channel::memory::MemoryStream;
use parking_lot::{Condvar, Mutex, MutexGuard};
use vm_memory::{Bytes, GuestAddress};

use super::Limit;
use super::block::{Body, Packer};
use super::own_time::OwnTime;
use crate::ram::{self, GuestRam, PAGE, PageSet};
use crate::state::Baseline;
use crate::state::hashes::Hashes;
use crate::state::hashes::{IN_MEMORY, ZERO, hash};
use crate::threads;

/// Pages that belong to the same stream one after the other: 2 MiB, a large page.
const STRIPE: u64 = 512;

/// Pages that a thread takes at once: few blocks, or one if most are not sent.
const AT_ONCE: usize = 128;

/// Where blocks of memory go.
pub trait SendBlocks: Send {
    /// Sends a block of a transfer; waits while there is no room for it.
    ///
    /// # Errors
    /// [`io::Error`], when nobody takes blocks any more.
    fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()>;

    /// Whether it may wait. One that never does needs no thread: a round is over when it was begun.
    fn may_wait(&self) -> bool {
        true
    }
}

impl SendBlocks for MemoryStream {
    fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()> {
        MemoryStream::send(self, transfer, block)
    }
}

/// How a transfer gets on, for people.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    left: AtomicU64,
    pages: AtomicU64,
}

impl Progress {
    /// Bytes of blocks that were sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Pages that are to be looked at yet, and how many the guest has.
    #[must_use]
    pub fn left(&self) -> (u64, u64) {
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        (number(&self.left), number(&self.pages))
    }
}

/// What a round came to: memory is gone through, and what was written meanwhile is the next round's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Pages that were looked at.
    pub looked_at: u64,
    /// Pages of those that were sent.
    pub sent: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// How long it took to look at them, were each thread that does alone on its processor,
    pub looking: Duration,
    /// and to send those that were sent.
    pub sending: Duration,
}

/// What became of a round that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It is over; the transfer has so many blocks until now.
    Sent {
        /// How many.
        blocks: u64,
    },
    /// It goes on.
    Late,
    /// Nobody takes memory any more.
    Over,
}

/// Sends guest memory to the other side, on threads of its own.
///
/// Threads read memory while the guest writes to it. A page may be sent torn: then it was written since
/// the last look at the guest's writes, and the next round has it again.
pub struct MemorySender {
    shared: Arc<Shared>,
}

struct Shared {
    memory: GuestRam,
    pages: u64,
    streams: u64,
    /// Streams that need no thread.
    instant: Mutex<Vec<Box<dyn SendBlocks>>>,
    state: Mutex<State>,
    /// There is something to send, or nothing ever any more.
    work: Condvar,
    /// The round is over, or nothing is sent any more.
    done: Condvar,
    progress: Arc<Progress>,
    limit: Option<Limit>,
    /// Has the guest's thread look around.
    wake: Box<dyn Fn() + Send + Sync>,
}

struct State {
    /// 0 before the first.
    transfer: u32,
    /// What the other side has of each page, of the transfer.
    hashes: Hashes,
    due: PageSet,
    /// Pages of the round that are due or being sent.
    left: u64,
    /// Blocks of the transfer.
    blocks: u64,
    round: Round,
    /// Pages of the round that the other side had.
    unchanged: PageSet,
    /// Nobody takes memory any more.
    over: bool,
}

/// A thread's pages.
struct Part {
    transfer: u32,
    hashes: Hashes,
    pages: Vec<u64>,
}

/// What became of them.
#[derive(Default)]
struct Outcome {
    /// Those that the other side had,
    unchanged: Vec<u64>,
    /// and those that were sent, with their hashes,
    sent: Vec<(u64, u64)>,
    /// in so many blocks,
    blocks: u64,
    bytes: u64,
    looking: Duration,
    sending: Duration,
}

/// What a thread needs to send them.
struct Workshop {
    body: Body,
    packer: Packer,
    clock: OwnTime,
}

impl Workshop {
    /// Of this thread.
    fn new() -> Self {
        Self {
            body: Body::default(),
            packer: Packer::default(),
            clock: OwnTime::of_this_thread(),
        }
    }
}

impl MemorySender {
    /// Threads that send the memory of `baseline` over `streams`, and have `wake` called when a round is
    /// over. Nothing is sent before the first transfer begins.
    ///
    /// # Errors
    /// The host has no threads for that.
    pub fn start(
        baseline: &Baseline,
        streams: Vec<Box<dyn SendBlocks>>,
        limit: Option<Limit>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> io::Result<Self> {
        let pages = baseline.pages();
        let shared = Arc::new(Shared {
            memory: baseline.memory().clone(),
            pages,
            streams: streams.len() as u64,
            instant: Mutex::default(),
            state: Mutex::new(State {
                transfer: 0,
                hashes: baseline.hashes(),
                due: PageSet::empty(pages),
                left: 0,
                blocks: 0,
                round: Round::default(),
                unchanged: PageSet::empty(pages),
                over: streams.is_empty(),
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            progress: Arc::default(),
            limit,
            wake,
        });
        shared.progress.pages.store(pages, Ordering::Relaxed);
        // Ends those that were started, when another one cannot be.
        let sender = Self { shared };
        if streams.iter().all(|stream| !stream.may_wait()) {
            *sender.shared.instant.lock() = streams;
            return Ok(sender);
        }
        for (n, stream) in (0..).zip(streams) {
            let shared = Arc::clone(&sender.shared);
            threads::start("memory", &[Calls::Files], move || shared.run(n, stream))?;
        }
        Ok(sender)
    }

    /// How the transfers get on.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.shared.progress)
    }

    /// Begins a transfer in place of one that may be under way: all of memory is due. `hashes` gives those
    /// of what the other side begins with.
    pub(in crate::state) fn begin(&self, transfer: u32, hashes: impl FnOnce() -> Hashes) {
        let mut state = self.shared.state.lock();
        state.hashes = hashes();
        state.transfer = transfer;
        state.blocks = 0;
        state.left = 0;
        self.shared.progress.bytes.store(0, Ordering::Relaxed);
        self.shared
            .begin_round(state, PageSet::full(self.shared.pages));
    }

    /// The hashes of what was sent of each page in the transfer.
    pub(in crate::state) fn hashes(&self) -> Hashes {
        self.shared.state.lock().hashes.clone()
    }

    /// Begins the next round, of these pages, once the last one is over.
    pub fn round(&self, due: PageSet) {
        self.shared.begin_round(self.shared.state.lock(), due);
    }

    /// What the round came to, and the pages that the other side had, if it is over.
    #[must_use]
    pub fn finished(&self) -> Option<(Round, PageSet)> {
        let mut state = self.shared.state.lock();
        (state.left == 0 && !state.over).then(|| {
            let nothing = PageSet::empty(self.shared.pages);
            (
                state.round,
                std::mem::replace(&mut state.unchanged, nothing),
            )
        })
    }

    /// Waits until the round is over, for `time` at most.
    #[must_use]
    pub fn wait(&self, time: Duration) -> Waited {
        let mut state = self.shared.state.lock();
        let sending = |state: &mut State| state.left > 0 && !state.over;
        self.shared.done.wait_while_for(&mut state, sending, time);
        match (state.over, state.left) {
            (true, _) => Waited::Over,
            (false, 0) => Waited::Sent {
                blocks: state.blocks,
            },
            _ => Waited::Late,
        }
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        // A thread may wait for the network: it ends when the session does.
        self.shared.end();
    }
}

impl Shared {
    fn begin_round(&self, mut state: MutexGuard<'_, State>, due: PageSet) {
        state.left = due.len();
        state.due = due;
        state.unchanged.clear();
        state.round = Round {
            looked_at: state.left,
            ..Round::default()
        };
        self.progress.left.store(state.left, Ordering::Relaxed);
        drop(state);
        self.work.notify_all();
        for (n, stream) in (0..).zip(&mut *self.instant.lock()) {
            let mut workshop = Workshop::new();
            loop {
                let part = self.part(&mut self.state.lock(), n, &mut 0);
                let Some(part) = part else { break };
                let sent = self.send(&part, &mut workshop, &mut **stream);
                self.note(&part, &sent.expect("it takes everything"));
            }
        }
    }

    fn end(&self) {
        self.state.lock().over = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    fn run(&self, stream: u64, mut to: Box<dyn SendBlocks>) {
        lower_priority();
        let (mut page, mut workshop) = (0, Workshop::new());
        while let Some(part) = self.next_part(stream, &mut page) {
            match self.send(&part, &mut workshop, &mut *to) {
                Ok(outcome) => self.note(&part, &outcome),
                Err(error) => {
                    log::debug!("memory is not sent any more: {error}");
                    self.end();
                    (self.wake)();
                    return;
                }
            }
        }
    }

    /// The next pages of this stream, from `page` on; waits for them.
    fn next_part(&self, stream: u64, page: &mut u64) -> Option<Part> {
        let mut state = self.state.lock();
        loop {
            if state.over {
                return None;
            }
            if let Some(part) = self.part(&mut state, stream, page) {
                return Some(part);
            }
            self.work.wait(&mut state);
        }
    }

    fn part(&self, state: &mut State, stream: u64, page: &mut u64) -> Option<Part> {
        let mut pages = Vec::new();
        if state.left > 0 {
            // To the end, and from the start again.
            for range in [*page..self.pages, 0..*page] {
                self.take(stream, range, &mut state.due, &mut pages);
            }
        }
        *page = pages.last()? + 1;
        Some(Part {
            transfer: state.transfer,
            hashes: state.hashes.clone(),
            pages,
        })
    }

    /// Takes pages of `range` that belong to the stream.
    fn take(&self, stream: u64, range: Range<u64>, due: &mut PageSet, into: &mut Vec<u64>) {
        let mut start = range.start;
        while start < range.end && into.len() < AT_ONCE {
            let stripe = start / STRIPE;
            let end = ((stripe + 1) * STRIPE).min(range.end);
            if stripe % self.streams == stream {
                while into.len() < AT_ONCE
                    && let Some(page) = due.take_first_in(start..end)
                {
                    into.push(page);
                    start = page + 1;
                }
            }
            start = end;
        }
    }

    fn send(
        &self,
        part: &Part,
        workshop: &mut Workshop,
        to: &mut dyn SendBlocks,
    ) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut since = workshop.clock.now();
        let zero = hash(&ZERO);
        let mut pages = part.pages.iter().peekable();
        while let Some(&page) = pages.next() {
            let theirs = part.hashes.get(page);
            // Most of a guest's memory is zero, and that is seen sooner than a hash is made.
            let is_same = theirs == zero && ram::is_zero(&self.memory, page);
            let read = |content: &mut [u8; PAGE]| {
                self.memory
                    .read_slice(content, GuestAddress(page * PAGE as u64))
                    .expect(IN_MEMORY);
            };
            if is_same || !workshop.body.push(page, theirs, read) {
                outcome.unchanged.push(page);
            }
            if workshop.body.is_full() || pages.peek().is_none() {
                let looked = workshop.clock.now();
                outcome.looking += looked.saturating_sub(since);
                since = self.send_block(part.transfer, workshop, to, &mut outcome)?;
                outcome.sending += since.saturating_sub(looked);
            }
        }
        Ok(outcome)
    }

    /// Sends the block that there is, if it has a page. When that was done.
    fn send_block(
        &self,
        transfer: u32,
        workshop: &mut Workshop,
        to: &mut dyn SendBlocks,
        outcome: &mut Outcome,
    ) -> io::Result<Duration> {
        let Workshop {
            body,
            packer,
            clock,
        } = workshop;
        if body.pages.is_empty() {
            return Ok(clock.now());
        }
        let block = packer.block(body, || clock.now());
        let bytes = block.len();
        let since = clock.now();
        if let Some(limit) = &self.limit {
            limit.wait(bytes);
        }
        to.send(transfer, &block)?;
        let now = clock.now();
        packer.sent(bytes, now.saturating_sub(since));
        outcome.sent.append(&mut body.pages);
        outcome.blocks += 1;
        outcome.bytes += bytes as u64;
        Ok(now)
    }

    fn note(&self, part: &Part, outcome: &Outcome) {
        let mut state = self.state.lock();
        // Another one began: the other side throws it away. Or another session did, which has these hashes now.
        if state.over || state.transfer != part.transfer {
            return;
        }
        for &(page, hash) in &outcome.sent {
            part.hashes.set(page, hash);
        }
        for &page in &outcome.unchanged {
            state.unchanged.insert(page);
        }
        state.blocks += outcome.blocks;
        state.left -= part.pages.len() as u64;
        let round = &mut state.round;
        round.bytes += outcome.bytes;
        round.sent += outcome.sent.len() as u64;
        // The threads have about as much to do, each.
        round.looking += outcome.looking / self.streams as u32;
        round.sending += outcome.sending / self.streams as u32;
        let progress = &self.progress;
        progress.left.store(state.left, Ordering::Relaxed);
        progress.bytes.fetch_add(outcome.bytes, Ordering::Relaxed);
        if state.left == 0 {
            drop(state);
            self.done.notify_all();
            (self.wake)();
        }
    }
}

/// The guest comes first, on a host whose processors are busy: it keeps six tenths of one that it shares.
fn lower_priority() {
    const NICE: libc::c_int = 2;
    // SAFETY: it changes nothing but this thread's priority (Linux: 0 is the calling thread).
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        log::debug!(
            "memory is sent at the guest's priority: {}",
            io::Error::last_os_error()
        );
    }
}
