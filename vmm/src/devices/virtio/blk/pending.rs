//! Requests that wait for the disk.

use serde::{Deserialize, Serialize};

use super::chain::{
    Answer, Buffer, Chain, MAX_BUFFERS, MAX_DISCARD_SECTORS, MAX_ZEROES_SECTORS, gather,
};
use crate::devices::virtio::transport::QUEUE_SIZE;
use crate::disk::order::Extent;
use crate::disk::{DiskOp, DiskRequest, MAX_TRANSFER, SECTOR_BYTES, SharedRead};
use crate::ram::GuestRam;

/// A request that waits for the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WaitingRequest {
    pub(super) id: u64,
    /// Head of its descriptor chain.
    pub(super) head: u16,
    op: PendingOp,
    /// Data of a write.
    source: Vec<Buffer>,
    pub(super) answer: Answer,
}

/// A request that nobody waits for: the driver reset the device after it was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Abandoned {
    pub(super) id: u64,
    /// How many bytes of data it moves.
    pub(super) bytes: u64,
}

impl Abandoned {
    /// Whether a guest could have made it; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.bytes > u64::from(MAX_TRANSFER) {
            return Err("a request is longer than requests can be");
        }
        Ok(())
    }
}

/// [`DiskOp`] without data: that is in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum PendingOp {
    Read { offset: u64, len: u32 },
    Write { offset: u64, len: u32 },
    Flush,
    Discard { offset: u64, len: u64 },
    WriteZeroes { offset: u64, len: u64, unmap: bool },
}

impl WaitingRequest {
    pub(super) fn new(id: u64, head: u16, op: &DiskOp, chain: Chain) -> Self {
        let (source, mut answer) = chain.into_parts();
        let (op, source) = match *op {
            DiskOp::Read { offset, len } => (PendingOp::Read { offset, len }, Vec::new()),
            DiskOp::Write { offset, ref data } => {
                let len = data.len() as u32;
                (PendingOp::Write { offset, len }, source)
            }
            DiskOp::Flush => (PendingOp::Flush, Vec::new()),
            DiskOp::Discard { offset, len } => (PendingOp::Discard { offset, len }, Vec::new()),
            DiskOp::WriteZeroes { offset, len, unmap } => {
                (PendingOp::WriteZeroes { offset, len, unmap }, Vec::new())
            }
        };
        if !matches!(op, PendingOp::Read { .. }) {
            answer.data = Vec::new();
        }
        Self {
            id,
            head,
            op,
            source,
            answer,
        }
    }

    /// The same, when the driver has reset the device.
    pub(super) fn abandon(self) -> Abandoned {
        Abandoned {
            id: self.id,
            bytes: self.data_bytes(),
        }
    }

    /// Offset and length, if it is a read.
    pub(super) fn as_read(&self) -> Option<(u64, u32)> {
        match self.op {
            PendingOp::Read { offset, len } => Some((offset, len)),
            _ => None,
        }
    }

    /// The same, with its number.
    pub(super) fn shared_read(&self) -> Option<SharedRead> {
        let id = self.id;
        self.as_read()
            .map(|(offset, len)| SharedRead { id, offset, len })
    }

    /// What it changes on the disk, if it does.
    pub(super) fn change(&self) -> Option<Extent> {
        match self.op {
            PendingOp::Read { .. } | PendingOp::Flush => None,
            PendingOp::Write { offset, len } => Some(Extent::new(offset, len.into())),
            PendingOp::Discard { offset, len } | PendingOp::WriteZeroes { offset, len, .. } => {
                Some(Extent::new(offset, len))
            }
        }
    }

    /// How many bytes its completion is to bring.
    pub(super) fn expected_data(&self) -> usize {
        self.as_read().map_or(0, |(_, len)| len as usize)
    }

    /// How many bytes of data it moves.
    pub(super) fn data_bytes(&self) -> u64 {
        match self.op {
            PendingOp::Read { len, .. } | PendingOp::Write { len, .. } => len.into(),
            _ => 0,
        }
    }

    pub(super) fn buffers(&self) -> usize {
        self.source.len() + self.answer.data.len()
    }

    /// The request, with the data that is in guest memory now.
    pub(super) fn request(&self, memory: &GuestRam) -> DiskRequest {
        let op = match self.op {
            PendingOp::Read { offset, len } => DiskOp::Read { offset, len },
            PendingOp::Write { offset, len } => {
                let mut data = vec![0; len as usize];
                // The buffers were in memory when the request was taken, or when the state was
                // loaded, and memory does not shrink.
                if gather(&self.source, &mut data, memory).is_none() {
                    log::error!("the data of disk request {} is outside memory", self.id);
                }
                DiskOp::Write { offset, data }
            }
            PendingOp::Flush => DiskOp::Flush,
            PendingOp::Discard { offset, len } => DiskOp::Discard { offset, len },
            PendingOp::WriteZeroes { offset, len, unmap } => {
                DiskOp::WriteZeroes { offset, len, unmap }
            }
        };
        DiskRequest { id: self.id, op }
    }

    /// Whether a guest of a disk of `capacity` bytes could have made it; if not, what is wrong.
    /// That buffers are outside memory is found when they are used.
    pub(super) fn check(&self, capacity: u64) -> Result<(), &'static str> {
        let transfer = SECTOR_BYTES..=MAX_TRANSFER.into();
        let ranges = |sectors: u32| SECTOR_BYTES..=u64::from(sectors) * SECTOR_BYTES;
        let (offset, len, data, possible) = match self.op {
            PendingOp::Read { offset, len } => (offset, len.into(), &self.answer.data, transfer),
            PendingOp::Write { offset, len } => (offset, len.into(), &self.source, transfer),
            PendingOp::Flush => (0, 0, &self.source, 0..=0),
            PendingOp::Discard { offset, len } => {
                (offset, len, &self.source, ranges(MAX_DISCARD_SECTORS))
            }
            PendingOp::WriteZeroes { offset, len, .. } => {
                (offset, len, &self.source, ranges(MAX_ZEROES_SECTORS))
            }
        };
        let whole = (offset | len).is_multiple_of(SECTOR_BYTES);
        if !whole || offset.checked_add(len).is_none_or(|end| end > capacity) {
            return Err("a request is not on the disk");
        }
        if !possible.contains(&len) {
            return Err("a request is longer than requests can be, or for nothing");
        }
        if self.head >= QUEUE_SIZE || self.buffers() > MAX_BUFFERS {
            return Err("a request has more buffers than a queue");
        }
        if data.iter().any(|buffer| buffer.len == 0) {
            return Err("a request has an empty buffer");
        }
        let bytes: u64 = data.iter().map(|buffer| u64::from(buffer.len)).sum();
        if bytes != self.data_bytes() || self.buffers() != data.len() {
            return Err("a request's buffers are not as long as its data");
        }
        Ok(())
    }
}
