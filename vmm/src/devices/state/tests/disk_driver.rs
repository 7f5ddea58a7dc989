//! The disk's driver, as far as guest memory has to do with it: where its ring and its requests
//! are.

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::disk::{DiskCompletion, DiskError, DiskOp, DiskRequest, SECTOR_BYTES};
use crate::ram::GuestRam;

/// Of the disk, in bytes.
pub(super) const CAPACITY: u64 = 64 * SECTOR_BYTES;
pub(super) const QUEUE: u16 = 32;
/// Descriptor table, available ring and used ring.
pub(super) const TABLE: u64 = 0x1_4000;
pub(super) const AVAIL: u64 = 0x1_5000;
pub(super) const USED: u64 = 0x1_6000;
const HEADERS: u64 = 0x1_7000;
const STATUSES: u64 = 0x1_7800;
const DATA: u64 = 0x1_8000;
const DATA_BYTES: u64 = 0x800;
/// Requests that the driver has room for, each with descriptors for header, data and status.
const REQUESTS: u16 = 8;

/// A request of the driver, right or wrong.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// VIRTIO_BLK_T_*.
    kind: u32,
    sector: u64,
    /// Of its data.
    len: u32,
    fill: u8,
}

/// What the disk answers.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// What was asked for; bytes that were read are all the same.
    Good(u8),
    /// Less than what was asked for.
    Short,
    Failed(DiskError),
}

fn put<T: vm_memory::ByteValued>(memory: &GuestRam, value: T, at: u64) {
    memory
        .write_obj(value, GuestAddress(at))
        .expect("in memory");
}

fn index(memory: &GuestRam, ring: u64) -> u16 {
    memory.read_obj(GuestAddress(ring + 2)).expect("in memory")
}

/// The rings, empty.
pub(super) fn clear(memory: &GuestRam) {
    for ring in [AVAIL, USED] {
        put(memory, 0u16, ring + 2);
    }
}

/// Makes a request available; not if the driver has no room for it.
pub(super) fn offer(memory: &GuestRam, ask: &Ask, used_event: u16) {
    let (available, used) = (index(memory, AVAIL), index(memory, USED));
    if available.wrapping_sub(used) >= REQUESTS {
        return;
    }
    let slot = available % REQUESTS;
    let n = u64::from(slot);
    let (header, status, data) = (HEADERS + 16 * n, STATUSES + n, DATA + n * DATA_BYTES);
    put(memory, ask.kind, header);
    put(memory, ask.sector, header + 8);
    put(memory, 0xffu8, status);
    let range_kind = matches!(ask.kind, DISCARD | ZEROES);
    let len = if range_kind { 16 } else { ask.len };
    if range_kind {
        put(memory, ask.sector, data);
        put(memory, ask.len / SECTOR_BYTES as u32, data + 8);
        put(memory, u32::from(ask.fill & 1), data + 12);
    } else {
        let fill = vec![ask.fill; len as usize];
        memory
            .write_slice(&fill, GuestAddress(data))
            .expect("in memory");
    }
    let writes = matches!(ask.kind, IN | GET_ID);
    let head = 3 * slot;
    for (descriptor, address, len, writes, next) in [
        (
            head,
            header,
            16,
            false,
            if len == 0 { head + 2 } else { head + 1 },
        ),
        (head + 1, data, len, writes, head + 2),
        (head + 2, status, 1, true, 0),
    ] {
        let mut flags = 0;
        if writes {
            flags |= VRING_DESC_F_WRITE as u16;
        }
        if next != 0 {
            flags |= VRING_DESC_F_NEXT as u16;
        }
        let at = TABLE + 16 * u64::from(descriptor);
        put(memory, address, at);
        put(memory, len, at + 8);
        put(memory, flags, at + 12);
        put(memory, next, at + 14);
    }
    put(memory, head, AVAIL + 4 + 2 * u64::from(available % QUEUE));
    put(
        memory,
        used.wrapping_add(used_event),
        AVAIL + 4 + 2 * u64::from(QUEUE),
    );
    put(memory, available.wrapping_add(1), AVAIL + 2);
}

/// What the disk says to a request.
pub(super) fn completion(request: &DiskRequest, answer: &Answer) -> DiskCompletion {
    let len = match request.op {
        DiskOp::Read { len, .. } => len as usize,
        _ => 0,
    };
    let result = match *answer {
        Answer::Good(fill) => Ok(vec![fill; len]),
        Answer::Short => Ok(vec![0; len / 2]),
        Answer::Failed(error) => Err(error),
    };
    DiskCompletion::new(request.id, result)
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

pub(super) fn ask() -> impl Strategy<Value = Ask> {
    let kind = prop_oneof![
        4 => Just(IN),
        4 => Just(OUT),
        2 => Just(FLUSH),
        1 => prop::sample::select(&[GET_ID, DISCARD, ZEROES][..]),
        1 => 0..20u32,
    ];
    let sector = prop_oneof![8 => 0..60u64, 1 => 60..70u64, 1 => any::<u64>()];
    let sectors = 1..=(DATA_BYTES / SECTOR_BYTES) as u32;
    let odd = prop::option::weighted(0.1, 0..600u32);
    (kind, sector, sectors, odd, any::<u8>()).prop_map(|(kind, sector, sectors, odd, fill)| {
        let len = match kind {
            FLUSH => 0,
            GET_ID => 20,
            _ => sectors * SECTOR_BYTES as u32,
        };
        let len = odd.unwrap_or(len);
        Ask {
            kind,
            sector,
            len,
            fill,
        }
    })
}

pub(super) fn answer() -> impl Strategy<Value = Answer> {
    let error = prop::sample::select(&[DiskError::Io, DiskError::Unsupported][..]);
    prop_oneof![
        6 => any::<u8>().prop_map(Answer::Good),
        1 => Just(Answer::Short),
        1 => error.prop_map(Answer::Failed),
    ]
}
