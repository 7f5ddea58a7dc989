//! From where what a cold backup keeps can be replayed.

use std::time::{Duration, Instant};

use crate::codec::Batch;
use crate::entry::{DiskOutcome, Lsn, Payload, ShutdownReason, StatePart};

/// A state from which a replay begins, and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// The segment that begins with it.
    pub(super) segment: u64,
    /// The entry that begins it.
    pub(in crate::receiver) begin: Lsn,
    /// Bytes of the log up to the state's end.
    pub state_bytes: u64,
    /// Bytes of the log since then.
    pub log_bytes: u64,
    /// What the primary's guest had used of a processor at the state's end.
    used: Duration,
    /// The transfer whose memory came beside the log, and how many blocks that has.
    pub(in crate::receiver) memory: (u32, u64),
}

impl Generation {
    /// Whether another one has come since.
    #[must_use]
    pub fn begins_before(&self, other: &Self) -> bool {
        self.begin < other.begin
    }
}

/// How the guest ended on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: ShutdownReason,
    /// Deterministic exits that it made.
    pub exits: u64,
}

/// Which of the two kinds of transfers one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    /// Nobody follows the log without it.
    State,
    /// The log can also be followed from before it.
    Renewal,
}

/// A transfer that is not complete.
#[derive(Debug)]
struct Coming {
    transfer: Transfer,
    generation: Generation,
    /// Its last part is kept; its memory may not be.
    has_end: bool,
}

/// Where and when a batch is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) segment: u64,
    /// What it takes there.
    pub(super) bytes: u64,
    pub(super) arrived: Instant,
    /// What the primary's guest had used of a processor.
    pub(super) used: Duration,
}

/// An entry that tells the guest's clocks, and when it came.
pub type ClockEntry = (Instant, Payload);

/// Which of the entries that tell the guest's clocks one is, if it is one: those that tell it together, those
/// of its monotonic time, or of its wall clock.
fn clock_of(payload: &Payload) -> Option<usize> {
    match payload {
        Payload::Protected { .. } => Some(0),
        Payload::Tick(_) | Payload::Clock(_) | Payload::Tsc(_) => Some(1),
        Payload::WallClock(_) => Some(2),
        _ => None,
    }
}

/// What the parts of a log that are kept can be replayed from.
#[derive(Debug)]
pub(in crate::receiver) struct Generations {
    complete: Generation,
    coming: Option<Coming>,
    /// What the primary's guest had used of a processor when the last batch came.
    used: Duration,
    last: Lsn,
    is_protecting: bool,
    ended: Option<Ended>,
    notices: Vec<Notice>,
    clocks: [Option<ClockEntry>; 3],
}

/// The completion of a request to the disk whose number no request has: what the primary knows of the
/// disk, which a replay that begins behind it has to know as well.
pub type Notice = (u64, DiskOutcome);

/// From this number on they are no request's.
const NOTICES: u64 = 1 << 63;

/// What is told by a notice: a later one of the same kind takes its place.
fn kind_of((id, outcome): Notice) -> (bool, bool, bool) {
    let number = id & ((1 << 62) - 1);
    (outcome == DiskOutcome::Done, id >> 62 & 1 == 1, number == 0)
}

/// The guest as it boots.
impl Default for Generations {
    fn default() -> Self {
        Self {
            complete: Generation {
                segment: 0,
                begin: Lsn::FIRST,
                state_bytes: 0,
                log_bytes: 0,
                used: Duration::ZERO,
                memory: (0, 0),
            },
            coming: None,
            used: Duration::ZERO,
            last: Lsn(0),
            is_protecting: false,
            ended: None,
            notices: Vec::new(),
            clocks: Default::default(),
        }
    }
}

/// The part of a transfer of the whole state that an entry is; of a delta too.
fn part(payload: &Payload) -> Option<(Transfer, &StatePart)> {
    match payload {
        Payload::State(part) => Some((Transfer::State, part)),
        Payload::Renewal(part) => Some((Transfer::Renewal, part)),
        _ => None,
    }
}

impl Generations {
    /// Whether a transfer of the whole state begins in this batch.
    pub(super) fn begins(batch: &Batch) -> bool {
        let is_begin = |payload| matches!(part(payload), Some((_, StatePart::Begin(_))));
        batch.entries.iter().any(|entry| is_begin(&entry.payload))
    }

    /// Takes a batch in.
    pub(super) fn take(&mut self, batch: &Batch, place: &Place) {
        let bytes = place.bytes;
        let had_end = self.coming.as_ref().is_some_and(|coming| coming.has_end);
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            if let Some((transfer, part)) = part(&entry.payload) {
                self.take_part(lsn, transfer, part, place);
            }
            if let Some(clock) = clock_of(&entry.payload) {
                self.clocks[clock] = Some((place.arrived, entry.payload.clone()));
            }
            match entry.payload {
                Payload::DiskDone { id, outcome } if id >= NOTICES => {
                    let notice = (id, outcome);
                    let kind = kind_of(notice);
                    self.notices.retain(|old| kind_of(*old) != kind);
                    self.notices.push(notice);
                }
                Payload::Protected { .. } => self.is_protecting = true,
                Payload::Shutdown(reason) => {
                    let exits = entry.point.exits;
                    self.ended = Some(Ended { reason, exits });
                }
                _ => {}
            }
        }
        self.complete.log_bytes += bytes;
        if let Some(Coming { generation, .. }) = &mut self.coming {
            match had_end {
                true => generation.log_bytes += bytes,
                false => generation.state_bytes += bytes,
            }
        }
        self.used = place.used;
        self.last = batch.last();
    }

    fn take_part(&mut self, lsn: Lsn, transfer: Transfer, part: &StatePart, place: &Place) {
        if let StatePart::Begin(number) = part {
            self.coming = Some(Coming {
                transfer,
                has_end: false,
                generation: Generation {
                    segment: place.segment,
                    begin: lsn,
                    state_bytes: 0,
                    log_bytes: 0,
                    used: place.used,
                    memory: (*number, 0),
                },
            });
            return;
        }
        let Some(coming) = self.coming.as_mut().filter(|it| it.transfer == transfer) else {
            return;
        };
        match part {
            StatePart::Memory(count) => coming.generation.memory.1 = *count,
            StatePart::Commit(_) if !coming.has_end => {
                coming.has_end = true;
                coming.generation.used = place.used;
            }
            _ => {}
        }
    }

    /// Memory that has to have come before this batch is kept, of the transfer that is under way, or begins
    /// in it: the transfer, and how many blocks. A renewal's can come later.
    pub(in crate::receiver) fn memory_before(&self, batch: &Batch) -> Option<(u32, u64)> {
        let mut coming = self.coming.as_ref().map(|it| it.generation.memory.0);
        let mut needed = None;
        for entry in &batch.entries {
            match &entry.payload {
                Payload::State(StatePart::Begin(transfer)) => coming = Some(*transfer),
                Payload::State(StatePart::Memory(blocks)) => {
                    needed = coming.map(|transfer| (transfer, *blocks));
                }
                _ => {}
            }
        }
        needed
    }

    /// The transfer whose last part has come, and how many blocks its memory has.
    pub(in crate::receiver) fn ending(&self) -> Option<(u32, u64)> {
        let coming = self.coming.as_ref().filter(|coming| coming.has_end);
        Some(coming?.generation.memory)
    }

    /// That one is complete.
    pub(super) fn end(&mut self) {
        if let Some(coming) = self.coming.take() {
            self.complete = coming.generation;
        }
    }

    /// The transfer that is under way will not be complete: its memory does not come.
    pub(in crate::receiver) fn give_up(&mut self) {
        self.coming = None;
    }

    /// What a replay begins from.
    pub(in crate::receiver) fn complete(&self) -> &Generation {
        &self.complete
    }

    /// What the guest has used of a processor since the state: what the replay takes, about.
    pub(in crate::receiver) fn replay(&self) -> Duration {
        self.used.saturating_sub(self.complete.used)
    }

    /// Last entry that is kept.
    pub(in crate::receiver) fn last(&self) -> Lsn {
        self.last
    }

    /// The log has told that it protects the guest.
    pub(in crate::receiver) fn is_protecting(&self) -> bool {
        self.is_protecting
    }

    /// The log has told that the guest has ended.
    pub(in crate::receiver) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// The newest entry of each kind that tells the guest's clocks.
    pub(in crate::receiver) fn clocks(&self) -> impl Iterator<Item = &ClockEntry> {
        self.clocks.iter().flatten()
    }

    /// The newest notice of each kind, in the log's order.
    pub(in crate::receiver) fn notices(&self) -> &[Notice] {
        &self.notices
    }
}
