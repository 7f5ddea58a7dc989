//! Requests to the disk, and their completions.

use std::fmt;

use logging_channel::entry::{Lsn, OutputChannel, OutputMarker};
use serde::{Deserialize, Serialize};

/// What the guest asks of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRequest {
    /// Its number: the guest's requests are counted, from 1, in the order in which it made them.
    /// A request that is issued again, because the host that it was issued on is gone, keeps it.
    pub id: u64,
    /// What is to be done.
    pub op: DiskOp,
}

/// What is to be done. Offsets and lengths are in bytes, multiples of 512, and within the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOp {
    /// To read.
    Read {
        /// Where.
        offset: u64,
        /// How much: 512 to [`MAX_TRANSFER`](super::MAX_TRANSFER).
        len: u32,
    },
    /// To write.
    Write {
        /// Where.
        offset: u64,
        /// What: 512 to [`MAX_TRANSFER`](super::MAX_TRANSFER) bytes.
        data: Vec<u8>,
    },
    /// To make durable what was completed before this was issued.
    Flush,
    /// To forget a range: what is read there afterwards does not matter.
    Discard {
        /// Where.
        offset: u64,
        /// How much, less than 4 GiB.
        len: u64,
    },
    /// To write zeroes.
    WriteZeroes {
        /// Where.
        offset: u64,
        /// How much, less than 4 GiB.
        len: u64,
        /// The room may be given back.
        unmap: bool,
    },
}

impl DiskOp {
    /// The part of the disk that is read or changed: offset and length in bytes. `None` for a
    /// flush.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Read { offset, len } => Some((*offset, u64::from(*len))),
            Self::Write { offset, data } => Some((*offset, data.len() as u64)),
            Self::Flush => None,
            Self::Discard { offset, len } | Self::WriteZeroes { offset, len, .. } => {
                Some((*offset, *len))
            }
        }
    }

    /// Whether it changes the disk: whether it is an output that the Output Rule is about.
    #[must_use]
    pub fn modifies(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Discard { .. } | Self::WriteZeroes { .. } => true,
            Self::Read { .. } | Self::Flush => false,
        }
    }
}

/// What is to be done, for people: without the data.
pub(super) struct Told<'a>(pub(super) &'a DiskOp);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0 {
            DiskOp::Read { .. } => "a read",
            DiskOp::Write { .. } => "a write",
            DiskOp::Flush => "a flush",
            DiskOp::Discard { .. } => "a discard",
            DiskOp::WriteZeroes { .. } => "a write of zeroes",
        };
        match self.0.range() {
            Some((offset, len)) => write!(f, "{what} of {len} bytes at {offset}"),
            None => f.write_str(what),
        }
    }
}

impl DiskRequest {
    /// The marker of its log entry, if it has one: if it changes the disk.
    ///
    /// The hash is over: kind u8 (1 write, 2 discard, 3 zeroes, 4 zeroes that may unmap),
    /// number, offset and length u64, all little-endian, and the data.
    #[must_use]
    pub fn marker(&self) -> Option<OutputMarker> {
        let (kind, data) = match &self.op {
            DiskOp::Read { .. } | DiskOp::Flush => return None,
            DiskOp::Write { data, .. } => (1, &data[..]),
            DiskOp::Discard { .. } => (2, &[][..]),
            DiskOp::WriteZeroes { unmap: false, .. } => (3, &[][..]),
            DiskOp::WriteZeroes { unmap: true, .. } => (4, &[][..]),
        };
        let (offset, len) = self.op.range()?;
        let numbers = [self.id, offset, len].map(u64::to_le_bytes);
        Some(OutputMarker::new(
            OutputChannel::Disk,
            u32::try_from(len).unwrap_or(u32::MAX),
            &[&[kind], numbers.as_flattened(), data],
        ))
    }
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCompletion {
    /// Number of the request.
    pub id: u64,
    /// What was read, as long as was asked for; empty for everything but reads.
    pub result: Result<Vec<u8>, DiskError>,
    /// What was read stays on the disk as it was found until the [`ReadWatch`] hears of it: a backup
    /// can read it there as well.
    pub held: bool,
}

impl DiskCompletion {
    /// Of a request that only the log can tell a backup of.
    #[must_use]
    pub fn new(id: u64, result: Result<Vec<u8>, DiskError>) -> Self {
        let held = false;
        Self { id, result, held }
    }
}

/// Why a request was not done, as far as the guest can be told (virtio 1.2, section 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskError {
    /// The disk failed, or is full: VIRTIO_BLK_S_IOERR.
    Io,
    /// The disk does not know such requests: VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

/// Where a live gate hands requests on. Each is to be answered, some time, with exactly one
/// completion in [`Lanes::disk`](crate::sources::Lanes).
pub trait DiskPort: Send {
    /// Takes a request. Overlapping requests are done in the order in which they are submitted;
    /// all others in any order.
    ///
    /// `commit` is the log entry that has to be acknowledged before the disk is changed. `None`
    /// when nothing is to be waited for: the request changes nothing, there is no backup, or it
    /// is issued again and its entry was acknowledged by this very host.
    fn submit(&mut self, request: DiskRequest, commit: Option<Lsn>);
}

/// Follows which reads the log tells a backup to do itself: the parts of the disk that these
/// are of must not change before the backup has executed their entries.
pub trait ReadWatch: Send {
    /// The completion of a read that is [held](DiskCompletion::held) was logged. `shared` is the LSN
    /// of its entry if the backup is to read the disk; `None` if the data is in the log.
    fn completed(&mut self, id: u64, shared: Option<Lsn>);
}

/// A read of the guest's that its host does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRead {
    /// Number of the request.
    pub id: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u32,
}

/// The shared disk as a backup reads it.
pub trait SharedDisk {
    /// Does a read. Waits and tries again until it succeeds, or never will.
    ///
    /// `ahead` are reads that may be asked for next, in any order or never, and that find now what
    /// they will find then. They may be begun; what was begun before and is not among them is not
    /// asked for any more.
    ///
    /// # Errors
    /// [`SharedReadError`]: this host cannot go on.
    fn read(&mut self, read: SharedRead, ahead: &[SharedRead]) -> Result<Vec<u8>, SharedReadError>;

    /// The guest is another one from here on: nothing that was begun holds any more.
    fn forget(&mut self) {}
}

/// Why a backup cannot read the shared disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the backup cannot read the shared disk: {0}")]
pub struct SharedReadError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, offset: u64, data: &[u8]) -> DiskRequest {
        let data = data.to_vec();
        DiskRequest {
            id,
            op: DiskOp::Write { offset, data },
        }
    }

    #[test]
    fn only_changes_have_markers() {
        for op in [
            DiskOp::Read {
                offset: 0,
                len: 512,
            },
            DiskOp::Flush,
        ] {
            assert!(!op.modifies());
            assert_eq!(DiskRequest { id: 1, op }.marker(), None);
        }
        let marker = write(1, 512, &[7; 1024]).marker().expect("an output");
        assert_eq!((marker.channel, marker.len), (OutputChannel::Disk, 1024));
    }

    #[test]
    fn a_marker_depends_on_all_of_a_request() {
        let zeroes = |unmap| DiskRequest {
            id: 1,
            op: DiskOp::WriteZeroes {
                offset: 0,
                len: 512,
                unmap,
            },
        };
        let discard = |len| DiskRequest {
            id: 1,
            op: DiskOp::Discard { offset: 0, len },
        };
        let all = [
            write(1, 0, &[0; 512]),
            write(2, 0, &[0; 512]),
            write(1, 512, &[0; 512]),
            write(1, 0, &[0; 1024]),
            write(1, 0, &[1; 512]),
            zeroes(false),
            zeroes(true),
            discard(512),
            discard(1 << 32),
        ];
        let hashes: std::collections::BTreeSet<u32> = all
            .iter()
            .map(|request| request.marker().expect("an output").hash)
            .collect();
        assert_eq!(hashes.len(), all.len());
    }
}
