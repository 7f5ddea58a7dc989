//! virtio-blk (virtio 1.2, section 5.2): one queue, a disk somewhere else behind it.
//!
//! The device knows nothing of the disk but its capacity. What the driver puts into the queue
//! leaves as a [`DiskRequest`], with a copy of the data to be written; what the disk answers comes
//! back as a [`DiskCompletion`], and only then, at that logged point, does anything of it enter
//! guest memory. In between the device keeps what it needs to do that, and to issue the request
//! again when the host that it was issued on is gone ([`Blk::unfinished`]).

mod chain;
mod pending;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, QueueT};

use self::chain::{
    Asked, Chain, MAX_DISCARD_SECTORS, MAX_ZEROES_SECTORS, SEG_MAX, SERIAL, SIZE_MAX,
};
use self::pending::{Abandoned, WaitingRequest};
use super::transport::QUEUE_SIZE;
use super::{Chains, Notify, VirtioDevice};
use crate::disk::order::Extent;
use crate::disk::{DiskCompletion, DiskError, DiskRequest, SECTOR_BYTES, SharedRead};
use crate::ram::GuestRam;

/// No more is taken out of the queue while requests of so many bytes, or with so many buffers, are
/// in flight, for a driver that was reset since as well. Bounds the copies of data to be written,
/// which the host holds until the disk has answered, and the device's state.
const BYTES_IN_FLIGHT: u64 = 8 << 20;
const BUFFERS_IN_FLIGHT: usize = 2048;

/// Number that no guest's requests reach: one a nanosecond would be 292 years of them.
const LAST_ID: u64 = u64::MAX / 2;

/// The device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blk {
    /// In bytes, a multiple of 512.
    capacity: u64,
    /// Number of the last request. Goes on over resets: an answer to a request that a reset made
    /// void is not taken for that to another.
    last_id: u64,
    /// Issued before the driver reset the device, and not completed: nobody waits for them, but the
    /// host has their data.
    abandoned: Vec<Abandoned>,
    /// In the order in which they were issued.
    pending: Vec<WaitingRequest>,
    /// Issued in the current event; fetched at its end.
    #[serde(skip)]
    issued: Vec<DiskRequest>,
}

impl Blk {
    /// A disk of `capacity` bytes; what does not fill a sector of 512 cannot be used.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity: capacity / SECTOR_BYTES * SECTOR_BYTES,
            last_id: 0,
            abandoned: Vec::new(),
            pending: Vec::new(),
            issued: Vec::new(),
        }
    }

    /// Its capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether a disk of `capacity` bytes could be in this state; if not, what is wrong.
    pub(in crate::devices) fn check(&self, capacity: u64) -> Result<(), &'static str> {
        if self.capacity != capacity {
            return Err("the disk has another capacity");
        }
        let abandoned = self.abandoned.iter().map(|request| request.id);
        let ids: Vec<u64> = abandoned.chain(self.pending.iter().map(|p| p.id)).collect();
        if !ids.is_sorted_by(|a, b| a < b) || ids.last().is_some_and(|id| *id > self.last_id) {
            return Err("the requests in flight are not in order");
        }
        if self.last_id > LAST_ID {
            return Err("more requests were made than a guest can make");
        }
        // First: what they are of is added up next.
        self.abandoned.iter().try_for_each(Abandoned::check)?;
        self.pending.iter().try_for_each(|p| p.check(capacity))?;
        // There was room when the last one was issued.
        let had_room = match (self.abandoned.split_last(), self.pending.split_last()) {
            (_, Some((_, before))) => has_room(&self.abandoned, before),
            (Some((_, before)), None) => has_room(before, &[]),
            (None, None) => true,
        };
        if !had_room {
            return Err("more is in flight than the device lets be");
        }
        Ok(())
    }

    /// Takes the requests that were issued, in order.
    pub fn take_issued(&mut self) -> Vec<DiskRequest> {
        std::mem::take(&mut self.issued)
    }

    /// The requests that were issued and not completed, as they are to be issued again: in order,
    /// with the data that is in guest memory now. The driver must leave it there until the
    /// request is completed.
    #[must_use]
    pub fn unfinished(&self, memory: &GuestRam) -> Vec<DiskRequest> {
        self.pending.iter().map(|p| p.request(memory)).collect()
    }

    /// The read that waits with number `id`; `None` if there is none.
    #[must_use]
    pub fn waiting_read(&self, id: u64) -> Option<SharedRead> {
        self.pending.iter().find(|p| p.id == id)?.shared_read()
    }

    /// Number of the last request.
    #[must_use]
    pub fn last_request(&self) -> u64 {
        self.last_id
    }

    /// The reads that wait and that no earlier change overlaps that waits as well, in order. None while
    /// the disk has something that the driver abandoned, which may be a change of anything.
    #[must_use]
    pub fn settled_reads(&self) -> Vec<SharedRead> {
        if !self.abandoned.is_empty() {
            return Vec::new();
        }
        let mut changes: Vec<Extent> = Vec::new();
        let mut settled = Vec::new();
        for pending in &self.pending {
            changes.extend(pending.change());
            let Some(read) = pending.shared_read() else {
                continue;
            };
            let extent = Extent::new(read.offset, read.len.into());
            if !changes.iter().any(|change| change.overlaps(extent)) {
                settled.push(read);
            }
        }
        settled
    }

    /// The host that requests were issued on is gone, and with it what the driver abandoned. What
    /// it waits for is issued again ([`Blk::unfinished`]).
    pub fn forget_abandoned(&mut self) {
        self.abandoned.clear();
    }

    /// The disk has done request `id`, whether the driver can hear of it or not. To be followed by
    /// [`Blk::complete`].
    pub(in crate::devices) fn done(&mut self, id: u64) -> Done {
        if let Some(at) = self.pending.iter().position(|p| p.id == id) {
            return Done(Found::Waits(self.pending.remove(at)));
        }
        match self.abandoned.iter().position(|request| request.id == id) {
            Some(at) => {
                self.abandoned.remove(at);
                Done(Found::Abandoned)
            }
            None => Done(Found::Nothing),
        }
    }

    /// Completes what is `done`. One that does not wait, because the driver reset the device, only
    /// makes room.
    pub(in crate::devices) fn complete(
        &mut self,
        done: Done,
        completion: &DiskCompletion,
        queues: &mut [Queue],
        memory: &GuestRam,
    ) -> Notify {
        let queue = &mut queues[0];
        let pending = match done.0 {
            Found::Waits(pending) => pending,
            Found::Abandoned if queue.ready() => {
                return self.take_requests(queue, memory, false);
            }
            Found::Abandoned | Found::Nothing => return Notify::No,
        };
        let written = match &completion.result {
            Ok(data) if data.len() == pending.expected_data() => {
                pending.answer.put(data, VIRTIO_BLK_S_OK, memory)
            }
            Ok(_) | Err(DiskError::Io) => pending.answer.put(&[], VIRTIO_BLK_S_IOERR, memory),
            Err(DiskError::Unsupported) => pending.answer.put(&[], VIRTIO_BLK_S_UNSUPP, memory),
        };
        let used = written.and_then(|len| queue.add_used(memory, pending.head, len).ok());
        if used.is_none() {
            return Notify::NeedsReset;
        }
        // There may be room for what had to wait.
        self.take_requests(queue, memory, true)
    }

    /// Takes requests out of the queue, as many as there is room for. `used`: some were used.
    fn take_requests(&mut self, queue: &mut Queue, memory: &GuestRam, mut used: bool) -> Notify {
        if queue.disable_notification(memory).is_err() {
            return Notify::NeedsReset;
        }
        let mut chains = Chains::of(queue);
        while has_room(&self.abandoned, &self.pending) {
            let Some(chain) = chains.next(queue, memory) else {
                // The guest stands still, so nothing can have been added meanwhile. What cannot
                // be taken out of the ring is an index that no ring can have.
                return match queue.enable_notification(memory) {
                    Ok(false) => super::notification(queue, memory, used),
                    Ok(true) | Err(_) => Notify::NeedsReset,
                };
            };
            let head = chain.head_index();
            if super::is_too_long(&chain, queue) {
                return Notify::NeedsReset;
            }
            let Some(chain) = Chain::read(chain, memory) else {
                return Notify::NeedsReset;
            };
            let written = match chain.asks(self.capacity, memory) {
                Asked::Disk(op) => {
                    self.last_id += 1;
                    let pending = WaitingRequest::new(self.last_id, head, &op, chain);
                    let id = pending.id;
                    self.pending.push(pending);
                    self.issued.push(DiskRequest { id, op });
                    continue;
                }
                Asked::Id => chain.answer().put(&SERIAL, VIRTIO_BLK_S_OK, memory),
                Asked::Wrong(status) => chain.answer().put(&[], status, memory),
                Asked::Nonsense => None,
            };
            if written
                .and_then(|len| queue.add_used(memory, head, len).ok())
                .is_none()
            {
                return Notify::NeedsReset;
            }
            used = true;
        }
        // The driver need not notify: the next completion makes room, and looks.
        super::notification(queue, memory, used)
    }
}

/// A request that the disk has done.
#[must_use]
pub(in crate::devices) struct Done(Found);

enum Found {
    /// The driver waits for it.
    Waits(WaitingRequest),
    /// The driver does not wait for it any more.
    Abandoned,
    /// There is no such request.
    Nothing,
}

/// Whether another request may be taken out of the queue while these are in flight.
fn has_room(abandoned: &[Abandoned], pending: &[WaitingRequest]) -> bool {
    let bytes: u64 = (abandoned.iter().map(|request| request.bytes))
        .chain(pending.iter().map(WaitingRequest::data_bytes))
        .sum();
    let buffers: usize = pending.iter().map(WaitingRequest::buffers).sum();
    abandoned.len() + pending.len() < usize::from(QUEUE_SIZE)
        && bytes < BYTES_IN_FLIGHT
        && buffers < BUFFERS_IN_FLIGHT
}

impl VirtioDevice for Blk {
    const DEVICE_TYPE: u16 = VIRTIO_ID_BLOCK as u16;
    const CLASS: [u8; 3] = [0x01, 0x80, 0x00];
    const QUEUES: usize = 1;
    const CONFIG_BYTES: usize = 60;

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    }

    /// struct virtio_blk_config, section 5.2.4.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; Self::CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.capacity / SECTOR_BYTES).to_le_bytes());
        for (at, value) in [
            (8, SIZE_MAX),
            (12, SEG_MAX),
            (20, SECTOR_BYTES as u32), // blk_size
            (36, MAX_DISCARD_SECTORS),
            (40, 1), // max_discard_seg
            (44, 1), // discard_sector_alignment
            (48, MAX_ZEROES_SECTORS),
            (52, 1), // max_write_zeroes_seg
        ] {
            put(at, &value.to_le_bytes());
        }
        put(56, &[1]); // write_zeroes_may_unmap
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = config.get(offset + n).copied().unwrap_or(0);
        }
    }

    fn queue_notified(&mut self, index: usize, queues: &mut [Queue], memory: &GuestRam) -> Notify {
        match queues.get_mut(index) {
            Some(queue) => self.take_requests(queue, memory, false),
            None => Notify::No,
        }
    }

    /// What is in flight stays so, for the disk: requests to the same places that are issued
    /// later are done later. But the driver hears nothing of it any more. It goes on taking room:
    /// a driver that resets the device again and again has no more in flight than another.
    fn reset(&mut self) {
        let abandoned = self.pending.drain(..).map(|p| p.abandon());
        self.abandoned.extend(abandoned);
    }
}
