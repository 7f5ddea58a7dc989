//! From where what a cold backup keeps can be replayed.

use std::time::Duration;

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
    pub(in crate::receiver) memory: Option<(u32, u64)>,
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

/// What the parts of a log that are kept can be replayed from.
#[derive(Debug)]
pub(in crate::receiver) struct Generations {
    complete: Generation,
    coming: Option<(Transfer, Generation)>,
    /// What the primary's guest had used of a processor when the last batch came.
    used: Duration,
    last: Lsn,
    is_protecting: bool,
    ended: Option<Ended>,
    notices: Vec<Notice>,
    /// Number of the last transfer whose memory comes beside the log.
    latest: u32,
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
                memory: None,
            },
            coming: None,
            used: Duration::ZERO,
            last: Lsn(0),
            is_protecting: false,
            ended: None,
            notices: Vec::new(),
            latest: 0,
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

    /// Takes a batch of so many bytes in, which is in this segment. Whether a transfer of the whole state
    /// has ended in it: nothing before that one is needed any more.
    pub(super) fn take(&mut self, batch: &Batch, bytes: u64, segment: u64, used: Duration) -> bool {
        let mut is_complete = false;
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            match (part(&entry.payload), &self.coming) {
                (Some((transfer, StatePart::Begin(number))), _) => {
                    let begun = Generation {
                        segment,
                        begin: lsn,
                        state_bytes: 0,
                        log_bytes: 0,
                        used,
                        memory: (transfer == Transfer::State).then_some((*number, 0)),
                    };
                    self.latest = begun.memory.map_or(self.latest, |(number, _)| number);
                    self.coming = Some((transfer, begun));
                }
                (Some((_, StatePart::Memory(count))), _) => {
                    if let Some((
                        Transfer::State,
                        Generation {
                            memory: Some((_, blocks)),
                            ..
                        },
                    )) = &mut self.coming
                    {
                        *blocks = *count;
                    }
                }
                (Some((transfer, StatePart::Commit(_))), Some((of, coming))) if transfer == *of => {
                    self.complete = Generation {
                        state_bytes: coming.state_bytes + bytes,
                        used,
                        ..*coming
                    };
                    self.coming = None;
                    is_complete = true;
                }
                _ => {}
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
        if !is_complete {
            self.complete.log_bytes += bytes;
        }
        if let Some((_, coming)) = &mut self.coming {
            coming.state_bytes += bytes;
        }
        self.used = used;
        self.last = batch.last();
        is_complete
    }

    /// Memory that has to have come before this batch is kept, of the transfer that is under way, or begins
    /// in it: the transfer, and how many blocks.
    pub(in crate::receiver) fn memory_before(&self, batch: &Batch) -> Option<(u32, u64)> {
        let mut coming = self
            .coming
            .as_ref()
            .and_then(|(_, coming)| Some(coming.memory?.0));
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

    /// The first transfer whose memory may be needed.
    pub(in crate::receiver) fn first_memory(&self) -> u32 {
        let coming = self.coming.as_ref().map(|(_, coming)| coming);
        let of = |generation: &Generation| Some(generation.memory?.0);
        match (of(&self.complete), coming.and_then(of)) {
            (Some(complete), _) => complete,
            // What was complete has none: the one that comes is the first, or one of later.
            (None, Some(coming)) => coming,
            (None, None) => self.latest + 1,
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

    /// Whether another one is under way.
    pub(in crate::receiver) fn is_renewed(&self) -> bool {
        self.coming.is_some()
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

    /// The newest notice of each kind, in the log's order.
    pub(in crate::receiver) fn notices(&self) -> &[Notice] {
        &self.notices
    }
}
