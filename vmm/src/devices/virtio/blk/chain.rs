//! What a descriptor chain asks for (virtio 1.2, section 5.2.6), and where the answer goes.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::disk::{DiskOp, MAX_TRANSFER, SECTOR_BYTES};
use crate::ram::GuestRam;

/// What VIRTIO_BLK_T_GET_ID says.
pub(super) const SERIAL: [u8; VIRTIO_BLK_ID_BYTES as usize] = *b"ftvm-shared-disk\0\0\0\0";
/// Largest buffer, and most buffers, of one request: together [`MAX_TRANSFER`].
pub(super) const SIZE_MAX: u32 = 8192;
pub(super) const SEG_MAX: u32 = MAX_TRANSFER / SIZE_MAX;
/// Most sectors that one discard, or one write of zeroes, may be of: 1 GiB and 32 MiB. The disk
/// has to write the zeroes if it has no better way.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
pub(super) const MAX_ZEROES_SECTORS: u32 = 1 << 16;

/// struct virtio_blk_req up to its data: type u32, reserved u32, sector u64.
const HEADER_BYTES: u64 = 16;
/// struct virtio_blk_discard_write_zeroes: sector u64, num_sectors u32, flags u32.
const RANGE_BYTES: u64 = 16;
const FLAG_UNMAP: u32 = 1;

/// Most buffers of a chain: data, header and status.
pub(super) const MAX_BUFFERS: usize = SEG_MAX as usize + 2;

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) len: u32,
}

/// Where the answer to a request goes: what was read, and a byte of status after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) data: Vec<Buffer>,
    pub(super) status: u64,
}

/// A descriptor chain with buffers in guest memory, without regard to how the driver divided it.
pub(super) struct Chain {
    kind: u32,
    sector: u64,
    /// What follows the header, for the device to read.
    out: Vec<Buffer>,
    answer: Answer,
}

/// What a chain asks for.
pub(super) enum Asked {
    /// Something that the disk has to do.
    Disk(DiskOp),
    /// The device's name.
    Id,
    /// What there is not: VIRTIO_BLK_S_IOERR or VIRTIO_BLK_S_UNSUPP is the answer.
    Wrong(u32),
    /// Its data cannot be read.
    Nonsense,
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

/// Fills `data` from `buffers`, which are as long at least.
pub(super) fn gather(buffers: &[Buffer], data: &mut [u8], memory: &GuestRam) -> Option<()> {
    let mut rest = data;
    for buffer in buffers {
        let len = rest.len().min(buffer.len as usize);
        let (part, tail) = rest.split_at_mut(len);
        memory.read_slice(part, GuestAddress(buffer.address)).ok()?;
        rest = tail;
    }
    rest.is_empty().then_some(())
}

/// Takes `len` bytes off the front of `buffers`, which are as long at least.
fn split_front(buffers: &mut Vec<Buffer>, mut len: u64) {
    buffers.retain_mut(|buffer| {
        let part = len.min(u64::from(buffer.len));
        len -= part;
        buffer.address += part;
        buffer.len -= part as u32;
        buffer.len > 0
    });
}

impl Answer {
    /// Writes an answer. Returns how many bytes that are; `None` if guest memory does not take
    /// them.
    pub(super) fn put(&self, data: &[u8], status: u32, memory: &GuestRam) -> Option<u32> {
        let mut rest = data;
        for buffer in &self.data {
            let (part, tail) = rest.split_at(rest.len().min(buffer.len as usize));
            memory
                .write_slice(part, GuestAddress(buffer.address))
                .ok()?;
            rest = tail;
        }
        memory
            .write_obj(status as u8, GuestAddress(self.status))
            .ok()?;
        Some((data.len() - rest.len()) as u32 + 1)
    }
}

impl Chain {
    /// Reads a chain; `None` if it is not one that the device could answer: too short for a
    /// header and a status, outside memory, or with what is to be read after what is to be
    /// written.
    pub(super) fn read(descriptors: DescriptorChain<&GuestRam>, memory: &GuestRam) -> Option<Self> {
        let (mut out, mut data) = (Vec::new(), Vec::new());
        for descriptor in descriptors {
            let buffer = Buffer {
                address: descriptor.addr().0,
                len: descriptor.len(),
            };
            let in_memory = memory.check_range(descriptor.addr(), buffer.len as usize);
            if buffer.len > 0 && !in_memory {
                return None;
            }
            if descriptor.is_write_only() {
                data.push(buffer);
            } else if data.is_empty() {
                out.push(buffer);
            } else {
                return None;
            }
        }
        out.retain(|buffer| buffer.len > 0);
        data.retain(|buffer| buffer.len > 0);
        let mut header = [0; HEADER_BYTES as usize];
        gather(&out, &mut header, memory)?;
        split_front(&mut out, HEADER_BYTES);
        let last = data.last_mut()?;
        last.len -= 1;
        let status = last.address + u64::from(last.len);
        data.retain(|buffer| buffer.len > 0);
        let (kind, sector) = header.split_at(8);
        Some(Self {
            kind: u32::from_le_bytes(kind[..4].try_into().expect("four bytes")),
            sector: u64::from_le_bytes(sector.try_into().expect("eight bytes")),
            out,
            answer: Answer { data, status },
        })
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Its data to be read by the device, and where the answer goes.
    pub(super) fn into_parts(self) -> (Vec<Buffer>, Answer) {
        (self.out, self.answer)
    }

    /// What it asks of a disk of `capacity` bytes.
    pub(super) fn asks(&self, capacity: u64, memory: &GuestRam) -> Asked {
        if self.out.len() + self.answer.data.len() > MAX_BUFFERS {
            return Asked::Wrong(VIRTIO_BLK_S_IOERR);
        }
        match self.kind {
            VIRTIO_BLK_T_IN => match self.transfer(total(&self.answer.data), capacity) {
                Some((offset, len)) => Asked::Disk(DiskOp::Read { offset, len }),
                None => Asked::Wrong(VIRTIO_BLK_S_IOERR),
            },
            VIRTIO_BLK_T_OUT => match self.transfer(total(&self.out), capacity) {
                Some((offset, len)) => {
                    let mut data = vec![0; len as usize];
                    match gather(&self.out, &mut data, memory) {
                        Some(()) => Asked::Disk(DiskOp::Write { offset, data }),
                        None => Asked::Nonsense,
                    }
                }
                None => Asked::Wrong(VIRTIO_BLK_S_IOERR),
            },
            VIRTIO_BLK_T_FLUSH => Asked::Disk(DiskOp::Flush),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.range(capacity, memory),
            VIRTIO_BLK_T_GET_ID if total(&self.answer.data) >= SERIAL.len() as u64 => Asked::Id,
            VIRTIO_BLK_T_GET_ID => Asked::Wrong(VIRTIO_BLK_S_IOERR),
            _ => Asked::Wrong(VIRTIO_BLK_S_UNSUPP),
        }
    }

    /// Offset and length of a read or write of `len` bytes, if they are on the disk.
    fn transfer(&self, len: u64, capacity: u64) -> Option<(u64, u32)> {
        let whole = len > 0 && len.is_multiple_of(SECTOR_BYTES) && len <= u64::from(MAX_TRANSFER);
        let offset = on_disk(self.sector, len, capacity)?;
        whole.then_some((offset, len as u32))
    }

    /// A discard or a write of zeroes: one range, as the configuration says.
    fn range(&self, capacity: u64, memory: &GuestRam) -> Asked {
        let mut range = [0; RANGE_BYTES as usize];
        if total(&self.out) != RANGE_BYTES {
            return Asked::Wrong(VIRTIO_BLK_S_IOERR);
        }
        if gather(&self.out, &mut range, memory).is_none() {
            return Asked::Nonsense;
        }
        let word = |at: usize| u32::from_le_bytes(range[at..at + 4].try_into().expect("four"));
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (sectors, flags) = (word(8), word(12));
        let discard = self.kind == VIRTIO_BLK_T_DISCARD;
        // Section 5.2.6.2: what a discard does not have, and what nothing has.
        let known = if discard { 0 } else { FLAG_UNMAP };
        if flags & !known != 0 {
            return Asked::Wrong(VIRTIO_BLK_S_UNSUPP);
        }
        let most = if discard {
            MAX_DISCARD_SECTORS
        } else {
            MAX_ZEROES_SECTORS
        };
        let len = u64::from(sectors) * SECTOR_BYTES;
        match on_disk(sector, len, capacity) {
            Some(offset) if (1..=most).contains(&sectors) => Asked::Disk(if discard {
                DiskOp::Discard { offset, len }
            } else {
                DiskOp::WriteZeroes {
                    offset,
                    len,
                    unmap: flags & FLAG_UNMAP != 0,
                }
            }),
            _ => Asked::Wrong(VIRTIO_BLK_S_IOERR),
        }
    }
}

/// Offset in bytes of `len` bytes from `sector` on; `None` beyond the disk's end.
fn on_disk(sector: u64, len: u64, capacity: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    (offset.checked_add(len)? <= capacity).then_some(offset)
}
