//! A guest that is small enough to be looked through: a function of its inputs.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use ftvm_vmm::disk::{DiskError, DiskRequest};
use logging_channel::entry::{DiskOutcome, OutputChannel, OutputMarker, Payload, StatePart};

use crate::disk::guest::GuestDisk;

/// Clients of the guest.
pub(crate) const CLIENTS: usize = 2;
/// Words of the guest's memory.
pub(crate) const PAGES: usize = 8;

/// A client asks the guest to count one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) client: usize,
    /// From 1.
    pub(crate) number: u64,
}

/// The guest has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reply {
    pub(crate) request: Request,
    /// How many requests of all clients came before it in the guest's life, with it.
    pub(crate) count: u64,
    /// Of everything that the guest has lived through until then.
    pub(crate) life: u64,
}

/// The guest's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Guest {
    pub(crate) rest: Rest,
    pub(crate) memory: [u64; PAGES],
}

/// What is not memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Rest {
    count: u64,
    life: u64,
    clock: u64,
    last: [Option<Reply>; CLIENTS],
    pub(crate) disk: GuestDisk,
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Request(Request),
    /// The clock, which the guest could not reproduce by itself.
    Tick(u64),
    Output(Reply),
    /// A change of the disk.
    Change(DiskRequest),
    /// The completion of a request to the disk, or what only the primary knows of it.
    DiskDone(u64, Result<Vec<u8>, DiskError>),
    /// The same of a read that the backup does itself, which has to find this.
    DiskShared(u64, Vec<u8>),
    Begin,
    Page(usize, u64),
    /// What is not memory, and pages that were written since they were sent.
    Commit(Box<Rest>, Vec<(usize, u64)>),
    /// The end of a renewal, and how many parts of memory it has.
    Renewed(Box<Rest>, Renewal),
    Protected,
}

/// An entry, with a digest of the state in which it was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) entry: Entry,
    pub(crate) check: u64,
}

impl Entry {
    /// What the product's machines take it for.
    pub(crate) fn payload(&self) -> Payload {
        match self {
            Self::Request(_) => Payload::NetRx(Vec::new()),
            Self::Tick(time) => Payload::Tick(*time),
            Self::Output(_) => Payload::Output(OutputMarker::new(OutputChannel::Net, 0, &[])),
            Self::Change(_) => Payload::Output(OutputMarker::new(OutputChannel::Disk, 0, &[])),
            Self::DiskDone(id, _) => Payload::DiskDone {
                id: *id,
                outcome: DiskOutcome::Done,
            },
            Self::DiskShared(id, _) => Payload::DiskDone {
                id: *id,
                outcome: DiskOutcome::Shared { crc: 0 },
            },
            Self::Begin => Payload::State(StatePart::Begin(0)),
            Self::Page(..) => Payload::State(StatePart::Pages(Vec::new())),
            Self::Commit(..) => Payload::State(StatePart::Commit(Vec::new())),
            Self::Renewed(..) => Payload::Renewal(StatePart::Commit(Vec::new())),
            Self::Protected => Payload::Protected {
                clock: 0,
                wall_clock: 0,
            },
        }
    }
}

impl Guest {
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The last request of a client that it has counted.
    pub(crate) fn counted(&self, client: usize) -> u64 {
        self.rest.last[client].map_or(0, |reply| reply.request.number)
    }

    /// The clock shows this, which it has not shown before. Gives what the guest asks of its disk.
    pub(crate) fn tick(&mut self, clock: u64) -> Option<DiskRequest> {
        self.rest.clock = clock;
        self.live(clock);
        match self.rest.life % 4 {
            0 => self.rest.disk.ask(self.rest.life),
            _ => None,
        }
    }

    /// What the clock shows at the earliest.
    pub(crate) fn clock(&self) -> u64 {
        self.rest.clock
    }

    /// The disk has done a request, or not. Says what is wrong with what was read.
    pub(crate) fn disk_done(
        &mut self,
        id: u64,
        result: &Result<Vec<u8>, DiskError>,
    ) -> Option<String> {
        let mut hasher = DefaultHasher::new();
        (id, result).hash(&mut hasher);
        self.live(hasher.finish());
        self.rest.disk.complete(id, result)
    }

    /// Takes a request: what the guest answers, and the page that it has written.
    pub(crate) fn request(&mut self, request: Request) -> (Option<Reply>, Option<usize>) {
        let Request { client, number } = request;
        let counted = self.counted(client);
        if number != counted + 1 {
            // Again: the reply was lost, or is on its way.
            return (self.rest.last[client].filter(|_| number == counted), None);
        }
        self.rest.count += 1;
        let page = (self.rest.life % PAGES as u64) as usize;
        self.memory[page] = self.memory[page].wrapping_add(self.rest.clock + number);
        self.live(self.memory[page]);
        let reply = Reply {
            request,
            count: self.rest.count,
            life: self.rest.life,
        };
        self.rest.last[client] = Some(reply);
        (Some(reply), Some(page))
    }

    fn live(&mut self, through: u64) {
        let mut hasher = DefaultHasher::new();
        (self.rest.life, through).hash(&mut hasher);
        self.rest.life = hasher.finish();
    }
}

/// A transfer of the whole state, while the guest runs.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    next: usize,
    /// Pages that were written after they were sent.
    written: Vec<usize>,
}

impl Transfer {
    pub(crate) fn wrote(&mut self, page: usize) {
        if page < self.next && !self.written.contains(&page) {
            self.written.push(page);
        }
    }

    /// The next part. The last one is a commit.
    pub(crate) fn part(&mut self, guest: &Guest) -> Entry {
        if let Some(word) = guest.memory.get(self.next) {
            self.next += 1;
            return Entry::Page(self.next - 1, *word);
        }
        let written = self.written.iter().map(|page| (*page, guest.memory[*page]));
        Entry::Commit(Box::new(guest.rest.clone()), written.collect())
    }
}

/// A renewal, by its number, and how many parts of its memory there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Renewal {
    pub(crate) number: u64,
    pub(crate) parts: usize,
}

/// A page of a renewal: which, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryPart {
    renewal: u64,
    page: usize,
    word: u64,
}

/// A renewal that is sent.
#[derive(Debug, Default)]
pub(crate) struct Renewing {
    of: Renewal,
    transfer: Transfer,
}

impl Renewing {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            of: Renewal { number, parts: 0 },
            transfer: Transfer::default(),
        }
    }

    pub(crate) fn wrote(&mut self, page: usize) {
        self.transfer.wrote(page);
    }

    /// What is sent next beside the log, and the end, in the log, if that is all.
    pub(crate) fn next(&mut self, guest: &Guest) -> (Vec<MemoryPart>, Option<Entry>) {
        let (pages, rest) = match self.transfer.part(guest) {
            Entry::Commit(rest, written) => (written, Some(rest)),
            Entry::Page(page, word) => (vec![(page, word)], None),
            other => unreachable!("{other:?} is no part of a transfer"),
        };
        self.of.parts += pages.len();
        let renewal = self.of.number;
        let part = |(page, word)| MemoryPart {
            renewal,
            page,
            word,
        };
        let end = rest.map(|rest| Entry::Renewed(rest, self.of));
        (pages.into_iter().map(part).collect(), end)
    }
}

/// What has come of a renewal.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    has: Renewal,
    memory: [u64; PAGES],
}

impl Kept {
    pub(crate) fn take(&mut self, part: MemoryPart) {
        if self.has.number != part.renewal {
            self.has = Renewal {
                number: part.renewal,
                parts: 0,
            };
        }
        self.memory[part.page] = part.word;
        self.has.parts += 1;
    }

    /// Whether all memory of this one is there.
    pub(crate) fn has(&self, renewal: Renewal) -> bool {
        self.has == renewal
    }

    /// The guest with this rest.
    pub(crate) fn guest(&self, rest: &Rest) -> Guest {
        Guest {
            rest: rest.clone(),
            memory: self.memory,
        }
    }
}

/// What a guest made of entries that are executed again, to be compared.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) guest: Guest,
    /// Replies that the log has to confirm.
    pub(crate) made: VecDeque<Reply>,
    /// Changes of the disk that the log has to confirm.
    changes: VecDeque<DiskRequest>,
    /// What it reads from the disk by itself: where, and what it has to find.
    pub(crate) reads: Vec<(Range<usize>, Vec<u8>)>,
    /// What the guest has asked of its disk.
    pub(crate) asked: Vec<DiskRequest>,
    /// What was received of a transfer.
    staged: [Option<u64>; PAGES],
}

impl Replay {
    /// Executes an entry of a log that has the state of this guest. Says whether it matches.
    pub(crate) fn execute(&mut self, logged: &Logged) -> bool {
        if self.guest.digest() != logged.check {
            return false;
        }
        match &logged.entry {
            Entry::Request(request) => self.made.extend(self.guest.request(*request).0),
            Entry::Tick(time) => {
                let asked = self.guest.tick(*time);
                let change = asked.as_ref().filter(|request| request.op.modifies());
                self.changes.extend(change.cloned());
                self.asked.extend(asked);
            }
            Entry::Change(request) => return self.changes.pop_front().as_ref() == Some(request),
            Entry::DiskDone(id, result) => drop(self.guest.disk_done(*id, result)),
            Entry::DiskShared(id, data) => {
                let sectors = self.guest.rest.disk.reads(*id);
                self.reads.extend(sectors.map(|it| (it, data.clone())));
                self.guest.disk_done(*id, &Ok(data.clone()));
            }
            Entry::Output(reply) => return self.made.pop_front() == Some(*reply),
            Entry::Begin
            | Entry::Page(..)
            | Entry::Commit(..)
            | Entry::Renewed(..)
            | Entry::Protected => {}
        }
        true
    }

    /// Takes an entry of a log whose state this guest has not. Says whether it has now.
    pub(crate) fn receive(&mut self, entry: &Entry) -> bool {
        match entry {
            Entry::Begin => self.staged = [None; PAGES],
            Entry::Page(page, word) => self.staged[*page] = Some(*word),
            Entry::Commit(rest, written) => {
                for (page, word) in written {
                    self.staged[*page] = Some(*word);
                }
                let Some(memory) = self.staged.iter().copied().collect::<Option<Vec<_>>>() else {
                    return false;
                };
                self.guest.rest = (**rest).clone();
                self.guest.memory = memory.try_into().expect("as many");
                self.made.clear();
                self.changes.clear();
                return true;
            }
            _ => {}
        }
        false
    }
}
