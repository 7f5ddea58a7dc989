//! What the guest does with its disk, as a function of what it lives through: it writes a number of its
//! own to some sectors, flushes, and reads what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ftvm_vmm::disk::{DiskError, DiskOp, DiskRequest};

/// Sectors of the disk.
pub(crate) const SECTORS: usize = 8;
/// Bytes of one.
const SECTOR: usize = 16;
/// Requests under way, at most.
const DEPTH: usize = 6;

/// What a sector holds: which request wrote it, and of which life of the guest's that was. Both are 0
/// before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Content {
    pub(crate) id: u64,
    pub(crate) life: u64,
}

impl Content {
    pub(crate) fn bytes(self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.life.to_le_bytes());
        bytes
    }

    /// The sectors of some data.
    pub(crate) fn all_of(data: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let (sectors, _) = data.as_chunks::<SECTOR>();
        sectors.iter().map(|sector| {
            let number = |at: usize| sector[at..at + 8].iter().rev();
            let number = |at| number(at).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
            Self {
                id: number(0),
                life: number(8),
            }
        })
    }
}

/// The sectors that a request is for; all for a flush.
pub(crate) fn sectors(op: &DiskOp) -> Range<usize> {
    match op.range() {
        Some((offset, len)) => {
            let first = offset as usize / SECTOR;
            first..first + len as usize / SECTOR
        }
        None => 0..SECTORS,
    }
}

/// A request without a completion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Open {
    Read {
        first: usize,
        /// Which write each sector has to be of.
        expects: Vec<u64>,
    },
    Write {
        first: usize,
        count: usize,
        life: u64,
    },
    Flush {
        /// What it makes stable.
        covers: [u64; SECTORS],
    },
}

/// What a guest knows of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct GuestDisk {
    /// The number of its last request.
    last: u64,
    open: BTreeMap<u64, Open>,
    /// The last write to each sector,
    holds: [u64; SECTORS],
    /// the last that was done,
    done: [u64; SECTORS],
    /// and the last that is stable.
    stable: [u64; SECTORS],
    /// Writes that failed: they may have been done, in part too.
    failed: BTreeSet<u64>,
    /// A flush failed: what was asked for up to here, and is not stable, may be lost.
    lost: u64,
}

impl GuestDisk {
    /// What the guest asks for now, if anything.
    pub(crate) fn ask(&mut self, life: u64) -> Option<DiskRequest> {
        if self.open.len() >= DEPTH {
            return None;
        }
        self.last += 1;
        let id = self.last;
        let first = (life >> 8) as usize % SECTORS;
        let count = 1 + (life >> 16) as usize % 3.min(SECTORS - first);
        let open = match life >> 24 & 7 {
            0..4 => {
                self.holds[first..first + count].fill(id);
                Open::Write { first, count, life }
            }
            4 | 5 => Open::Read {
                first,
                expects: self.holds[first..first + count].to_vec(),
            },
            _ => Open::Flush { covers: self.done },
        };
        let request = request(id, &open);
        self.open.insert(id, open);
        Some(request)
    }

    /// The requests of which no completion came, in their order.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = DiskRequest> + '_ {
        self.open.iter().map(|(id, open)| request(*id, open))
    }

    /// The number of the last request, and that of the first that is not completed.
    pub(crate) fn asked(&self) -> (u64, u64) {
        let first = self.open.keys().next();
        (self.last, first.copied().unwrap_or(self.last + 1))
    }

    /// The sectors that an open request reads.
    pub(crate) fn reads(&self, id: u64) -> Option<Range<usize>> {
        match self.open.get(&id)? {
            Open::Read { first, expects } => Some(*first..*first + expects.len()),
            Open::Write { .. } | Open::Flush { .. } => None,
        }
    }

    /// A completion comes. Says what is wrong with what was read.
    pub(crate) fn complete(
        &mut self,
        id: u64,
        result: &Result<Vec<u8>, DiskError>,
    ) -> Option<String> {
        match (self.open.remove(&id)?, result) {
            (Open::Read { first, expects }, Ok(data)) => {
                let found = Content::all_of(data).map(|content| content.id);
                for (sector, (found, expects)) in (first..).zip(found.zip(expects)) {
                    // A write that was asked for later, and before this was done, may be done first.
                    let is_later = found > id && found <= self.last;
                    if found != expects && !is_later && !self.may_lack(sector, expects) {
                        return Some(format!(
                            "the guest reads back what it did not write: in sector {sector} is \
                             {found}, and {expects} was written last"
                        ));
                    }
                }
            }
            (Open::Read { .. }, Err(_)) => {}
            (Open::Write { first, count, .. }, Ok(_)) => {
                for done in &mut self.done[first..first + count] {
                    *done = id.max(*done);
                }
            }
            (Open::Write { .. }, Err(_)) => {
                self.failed.insert(id);
            }
            (Open::Flush { covers }, Ok(_)) => {
                for (stable, covered) in self.stable.iter_mut().zip(covers) {
                    *stable = covered.max(*stable);
                }
            }
            // What was written since the last one may be lost.
            (Open::Flush { .. }, Err(_)) => {
                self.lost = self.last;
                self.done = self.stable;
                // It is told once: others that it has asked for by now say nothing of that.
                for open in self.open.values_mut() {
                    if let Open::Flush { covers } = open {
                        *covers = self.stable;
                    }
                }
            }
        }
        None
    }

    /// Whether it may be that a write is not in a sector.
    fn may_lack(&self, sector: usize, id: u64) -> bool {
        self.failed.contains(&id) || id <= self.lost && id != self.stable[sector]
    }

    /// The oldest write that a sector may hold whatever happens to the disk.
    pub(crate) fn stable(&self, sector: usize) -> u64 {
        self.stable[sector]
    }
}

/// A request, for the trace.
pub(crate) fn described(request: &DiskRequest) -> String {
    let (id, sectors) = (request.id, sectors(&request.op));
    match request.op {
        DiskOp::Read { .. } => format!("{id}, to read {sectors:?}"),
        DiskOp::Flush => format!("{id}, to flush"),
        _ => format!("{id}, to write {sectors:?}"),
    }
}

fn request(id: u64, open: &Open) -> DiskRequest {
    let op = match open {
        Open::Read { first, expects } => DiskOp::Read {
            offset: (first * SECTOR) as u64,
            len: (expects.len() * SECTOR) as u32,
        },
        Open::Write { first, count, life } => DiskOp::Write {
            offset: (first * SECTOR) as u64,
            data: Content { id, life: *life }.bytes().repeat(*count),
        },
        Open::Flush { .. } => DiskOp::Flush,
    };
    DiskRequest { id, op }
}
