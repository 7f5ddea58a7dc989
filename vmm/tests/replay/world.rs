//! A made-up outside world, logs in memory, and a gate that remembers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ftvm_vmm::devices::{Appetite, ClockNeed, Input, Output};
use ftvm_vmm::dice::Dice;
use ftvm_vmm::disk::{
    DiskCompletion, DiskError, DiskOp, DiskRequest, ReadWatch, SharedDisk, SharedRead,
    SharedReadError,
};
use ftvm_vmm::engine::{Divergence, Interruption, OutputGate, Role, Step};
use ftvm_vmm::sources::{Head, LogSink, LogSource, OutsideWorld};
use ftvm_vmm::state::{KeptBlocks, MemoryTaker, SendBlocks};
use logging_channel::entry::{Entry, Lsn, Payload, StatePart};
use logging_channel::memory::TakeBlocks as _;
use parking_lot::Mutex;

/// Time passes and inputs arrive by the throw of dice.
pub(crate) struct MadeUpWorld {
    dice: RefCell<Dice>,
    now: Cell<u64>,
    /// Requests to the disk that wait.
    asked: Rc<RefCell<Vec<DiskRequest>>>,
}

impl MadeUpWorld {
    /// A world in which guest time starts at `now`.
    pub(crate) fn new(seed: u64, now: u64) -> Self {
        Self {
            dice: RefCell::new(Dice(seed)),
            now: Cell::new(now),
            asked: Rc::default(),
        }
    }

    /// With a disk for what comes to `gate`.
    pub(crate) fn with_disk_of(mut self, gate: &Seen) -> Self {
        self.asked = gate.asked.clone();
        self
    }

    /// Completes any of the requests that wait.
    fn completion(&self) -> Option<Input> {
        let waiting = self.asked.borrow().len() as u64;
        if waiting == 0 {
            return None;
        }
        let any = self.roll(waiting) as usize;
        let DiskRequest { id, op } = self.asked.borrow_mut().remove(any);
        let is_read = matches!(op, DiskOp::Read { .. });
        let result = match (self.roll(8), op) {
            (0, _) => Err(DiskError::Io),
            (1, _) => Err(DiskError::Unsupported),
            (_, DiskOp::Read { offset, len }) => Ok(contents(offset, len)),
            _ => Ok(Vec::new()),
        };
        let held = is_read && result.is_ok() && !id.is_multiple_of(4);
        Some(Input::Disk(DiskCompletion { id, result, held }))
    }

    fn roll(&self, sides: u64) -> u64 {
        self.dice.borrow_mut().roll(sides)
    }

    fn arrival(&self, appetite: &Appetite) -> Option<Input> {
        if self.roll(2) == 0
            && let Some(completion) = self.completion()
        {
            return Some(completion);
        }
        let byte = self.roll(256) as u8;
        if appetite.frame && self.roll(2) == 0 {
            let len = 60 + self.roll(200) as usize;
            return Some(Input::Frame(vec![byte; len].into()));
        }
        appetite.typed.then(|| Input::Typed(vec![byte, byte ^ 1]))
    }
}

impl OutsideWorld for MadeUpWorld {
    fn clock(&self, need: ClockNeed) -> u64 {
        self.now.set(self.now.get() + 1 + self.roll(60_000));
        match need {
            ClockNeed::Wall => 1_700_000_000_000_000_000 + self.now.get(),
            ClockNeed::Tsc | ClockNeed::Monotonic => self.now.get(),
        }
    }

    fn poll(&self, appetite: &Appetite) -> Step<Option<Input>> {
        let now = self.clock(ClockNeed::Monotonic);
        if appetite.timer_deadline.is_some_and(|at| now >= at) {
            return Ok(Some(Input::Tick(now)));
        }
        Ok(if self.roll(12) == 0 {
            self.arrival(appetite)
        } else {
            None
        })
    }

    fn is_ready(&self, _: &Appetite) -> bool {
        self.roll(3) == 0
    }

    fn wait(&self, appetite: &Appetite) -> Step<Input> {
        if self.roll(3) == 0
            && let Some(input) = self.arrival(appetite)
        {
            return Ok(input);
        }
        match appetite.timer_deadline {
            Some(at) => {
                self.now.set(self.now.get().max(at) + self.roll(2_000_000));
                Ok(Input::Tick(self.now.get()))
            }
            None => self.arrival(appetite).ok_or(Interruption::Stop),
        }
    }
}

/// A world in which nothing happens but that time passes. A handle.
#[derive(Clone)]
pub(crate) struct Quiet {
    now: Rc<Cell<u64>>,
    /// Guest time from one look at the clock to the next, in nanoseconds.
    step: u64,
    /// What the guest is given whenever it sleeps; without, it ends then.
    key: Option<u8>,
    /// Whether something seems to wait for the guest for many stops, and for many others not.
    nudges: bool,
    /// How often the clock was looked at.
    pub(crate) looks: Rc<Cell<u64>>,
    /// How often the host stopped the guest.
    pub(crate) stops: Rc<Cell<u64>>,
}

impl Quiet {
    /// From one look at the clock to the next, `step` nanoseconds pass.
    pub(crate) fn new(step: u64) -> Self {
        Self {
            now: Rc::default(),
            step,
            key: None,
            nudges: false,
            looks: Rc::default(),
            stops: Rc::default(),
        }
    }

    /// In which `key` is pressed whenever the guest sleeps.
    pub(crate) fn with_key(self, key: u8) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// In which, for many stops of the guest, something seems to wait for it.
    pub(crate) fn with_nudges(self) -> Self {
        Self {
            nudges: true,
            ..self
        }
    }

    /// Guest time, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The guest stands still for `nanos` nanoseconds.
    pub(crate) fn pass(&self, nanos: u64) {
        self.now.set(self.now.get() + nanos);
    }
}

impl OutsideWorld for Quiet {
    fn clock(&self, _: ClockNeed) -> u64 {
        self.looks.set(self.looks.get() + 1);
        self.pass(self.step);
        self.now()
    }

    fn poll(&self, _: &Appetite) -> Step<Option<Input>> {
        Ok(None)
    }

    fn is_ready(&self, _: &Appetite) -> bool {
        let stops = self.stops.replace(self.stops.get() + 1);
        self.nudges && stops % 64 >= 32
    }

    fn wait(&self, _: &Appetite) -> Step<Input> {
        let key = self.key.ok_or(Interruption::Stop)?;
        Ok(Input::Typed(vec![key]))
    }
}

/// What is on the disk: writes do not show.
fn contents(offset: u64, len: u32) -> Vec<u8> {
    let bytes = offset..offset + u64::from(len);
    bytes.map(|at| (at * 7 + at / 512) as u8).collect()
}

/// The disk as a backup reads it.
pub(crate) struct Shared {
    /// Another byte is there than the primary read.
    pub(crate) differs: bool,
    /// The most reads that could have been begun at a time.
    pub(crate) most_ahead: Rc<Cell<usize>>,
}

impl SharedDisk for Shared {
    fn read(&mut self, read: SharedRead, ahead: &[SharedRead]) -> Result<Vec<u8>, SharedReadError> {
        assert!(!ahead.contains(&read));
        self.most_ahead.set(self.most_ahead.get().max(ahead.len()));
        let mut data = contents(read.offset, read.len);
        data[0] ^= u8::from(self.differs);
        Ok(data)
    }
}

/// Remembers the reads that the replay has to do. A handle.
#[derive(Clone, Default)]
pub(crate) struct SharedReads(pub(crate) Arc<Mutex<Vec<(u64, Lsn)>>>);

impl ReadWatch for SharedReads {
    fn completed(&mut self, id: u64, shared: Option<Lsn>) {
        let reads = shared.map(|lsn| (id, lsn));
        self.0.lock().extend(reads);
    }
}

/// A log in memory. Before the part that says how many blocks of memory were sent, it has them, as if they
/// were a delta's: [`Playback`] gives them to whoever takes memory. A handle.
#[derive(Clone, Default)]
pub(crate) struct MemoryLog {
    pub(crate) entries: Rc<RefCell<Vec<Entry>>>,
    /// Memory that was sent, and is not in the log yet.
    pub(crate) blocks: KeptBlocks,
    /// The whole state is asked for when there are this many entries.
    pub(crate) state_wanted_after: Option<usize>,
    /// The whole state is asked for beside the log when there are this many entries.
    pub(crate) renewal_wanted_after: Option<usize>,
    /// A replay that knows nothing begins when there are this many.
    pub(crate) joined_after: Option<usize>,
    /// It has not taken the state over, which is the last of so many in the log.
    pub(crate) joining: Option<usize>,
}

impl LogSink for MemoryLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let mut entries = self.entries.borrow_mut();
        match entry.payload {
            Payload::State(StatePart::Begin(_)) => drop(self.blocks.take()),
            Payload::State(StatePart::Memory(_)) | Payload::Renewal(StatePart::Memory(_)) => {
                let blocks = self.blocks.take().into_iter();
                let payload = match entry.payload {
                    Payload::Renewal(_) => Payload::Renewal,
                    _ => Payload::State,
                };
                entries.extend(blocks.map(|block| Entry {
                    payload: payload(StatePart::Pages(block)),
                    ..entry.clone()
                }));
            }
            _ => {}
        }
        entries.push(entry);
        Ok(Lsn(entries.len() as u64))
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        vec![Box::new(self.blocks.clone())]
    }

    fn begins(&mut self) -> bool {
        let len = self.entries.borrow().len();
        let begins = self.joined_after.take_if(|after| len >= *after).is_some();
        if begins {
            self.joining = Some(len);
        }
        begins
    }

    fn protects(&mut self) -> bool {
        let Some(begin) = self.joining else {
            return false;
        };
        let commit = |e: &Entry| matches!(e.payload, Payload::State(StatePart::Commit(_)));
        let complete = self.entries.borrow()[begin..].iter().any(commit);
        if complete {
            self.joining = None;
        }
        complete
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        let len = self.entries.borrow().len();
        self.state_wanted_after.take_if(|after| len >= *after)?;
        Some(Lsn(len as u64))
    }

    fn renewal_wanted(&mut self) -> bool {
        let len = self.entries.borrow().len();
        let wanted = self.renewal_wanted_after.take_if(|after| len >= *after);
        wanted.is_some()
    }
}

/// Plays a log back.
pub(crate) struct Playback {
    entries: Vec<Entry>,
    next: usize,
    /// Takes the memory of this transfer of the whole state.
    memory: Option<Arc<MemoryTaker>>,
    /// With the blocks that it was given.
    transfer: Option<(u32, u64)>,
    /// Whether a replay that differs may wait for the whole state.
    repairs: bool,
    /// How often it did.
    pub(crate) repaired: Rc<Cell<u32>>,
    /// The role that takes over at the log's end.
    successor: Option<Box<dyn FnOnce() -> Role>>,
}

impl Playback {
    /// To the end of the log and no further.
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        Self {
            entries,
            next: 0,
            memory: None,
            transfer: None,
            repairs: false,
            repaired: Rc::default(),
            successor: None,
        }
    }

    /// With memory of transfers of the whole state for `taker`.
    pub(crate) fn giving_memory_to(mut self, taker: Arc<MemoryTaker>) -> Self {
        self.memory = Some(taker);
        self
    }

    /// Gives the memory that comes next to who takes it.
    fn give_memory(&mut self) {
        while let (Some((transfer, given)), Some(taker)) = (&mut self.transfer, &self.memory)
            && let Some(entry) = self.entries.get(self.next)
        {
            match &entry.payload {
                Payload::State(StatePart::Pages(block))
                | Payload::Renewal(StatePart::Pages(block)) => {
                    if let Err(reason) = taker.take(*transfer, block) {
                        taker.ended(reason);
                    }
                    *given += 1;
                    self.next += 1;
                }
                Payload::State(StatePart::Memory(blocks))
                | Payload::Renewal(StatePart::Memory(blocks))
                    if blocks > given =>
                {
                    return taker.ended("it is short".into());
                }
                _ => return,
            }
        }
    }

    /// In which the whole state is to be found if the replay differs.
    pub(crate) fn with_state(entries: Vec<Entry>) -> Self {
        Self {
            repairs: true,
            ..Self::new(entries)
        }
    }

    /// With a role for what comes after.
    pub(crate) fn followed_by(
        entries: Vec<Entry>,
        successor: impl FnOnce() -> Role + 'static,
    ) -> Self {
        Self {
            successor: Some(Box::new(successor)),
            ..Self::new(entries)
        }
    }
}

impl LogSource for Playback {
    fn head(&mut self) -> Step<Head<'_>> {
        self.give_memory();
        Ok(match self.entries.get(self.next) {
            Some(entry) => Head::Entry(Lsn(self.next as u64 + 1), entry),
            None => Head::Ended,
        })
    }

    fn advance(&mut self) {
        match self.entries[self.next].payload {
            Payload::State(StatePart::Begin(transfer)) => {
                self.transfer = Some((transfer, 0));
            }
            // Who does not begin with it passes over its memory as well.
            Payload::Renewal(StatePart::Begin(transfer)) if self.next == 0 => {
                self.transfer = Some((transfer, 0));
            }
            Payload::State(StatePart::Memory(_)) | Payload::Renewal(StatePart::Memory(_)) => {
                self.transfer = None;
            }
            _ => {}
        }
        self.next += 1;
    }

    fn differs(&mut self, _: &Divergence) -> bool {
        self.repairs
    }

    fn is_repaired(&mut self) {
        self.repaired.set(self.repaired.get() + 1);
    }

    fn after_end(&mut self) -> Interruption {
        match self.successor.take() {
            Some(successor) => Interruption::Handover(Box::new(successor())),
            None => Interruption::Failed("the log ends before the guest does".into()),
        }
    }
}

/// Keeps what leaves the machine. A handle.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// What left.
    pub(crate) outputs: Rc<RefCell<Vec<Output>>>,
    /// Requests to the disk that nobody has completed yet.
    pub(crate) asked: Rc<RefCell<Vec<DiskRequest>>>,
    /// Requests to the disk that came again.
    pub(crate) again: Rc<RefCell<Vec<DiskRequest>>>,
}

impl OutputGate for Seen {
    fn submit(&mut self, output: Output, _: Option<Lsn>) {
        let mut outputs = self.outputs.borrow_mut();
        if let Output::Disk(request) = &output {
            self.asked.borrow_mut().push(request.clone());
            let same = |o: &Output| matches!(o, Output::Disk(r) if r.id == request.id);
            if outputs.iter().any(same) {
                self.again.borrow_mut().push(request.clone());
                return;
            }
        }
        outputs.push(output);
    }
}
