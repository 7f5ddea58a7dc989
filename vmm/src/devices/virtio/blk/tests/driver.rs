//! A driver of the disk, and its device.

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::super::Blk;
use crate::devices::virtio::transport::VirtioPci;
use crate::disk::{DiskCompletion, DiskError, DiskRequest};
use crate::ram::GuestRam;

pub(super) const CAPACITY: u64 = 1 << 30;
pub(super) const QUEUE: u16 = 16;
pub(super) const RING: u64 = 0x1000;
pub(super) const HEADERS: u64 = 0x8000;
pub(super) const DATA: u64 = 0x1_0000;
pub(super) const STATUS: u64 = 0x9000;
pub(super) const NOT_WRITTEN: u8 = 0xee;

pub(super) const DEVICE_STATUS: u16 = 0x14;
pub(super) const NOTIFY: u16 = 0x44;
pub(super) const NEEDS_RESET: u8 = 64;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const ZEROES: u32 = 13;

/// A driver and its device.
pub(super) struct Setup {
    pub(super) memory: GuestRam,
    pub(super) disk: VirtioPci<Blk>,
    /// Addresses of the descriptor table, the available ring and the used ring.
    pub(super) table: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    /// Descriptors used.
    pub(super) descriptors: u16,
    pub(super) requests: u16,
}

impl Setup {
    pub(super) fn new(event_idx: bool) -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
        let disk = VirtioPci::new(Blk::new(CAPACITY), memory.clone(), crate::devices::DISK);
        let mut guest = Self {
            memory,
            disk,
            table: RING,
            avail: RING + 0x400,
            used: RING + 0x800,
            descriptors: 0,
            requests: 0,
        };
        guest.start(event_idx);
        guest
    }

    /// The driver sets the device up.
    pub(super) fn start(&mut self, event_idx: bool) {
        let features = (1 << 32) | u64::from(event_idx) << 29 | 1 << 9;
        let (table, avail, used) = (self.table, self.avail, self.used);
        let mut write = |at: u16, len: usize, value: u32| {
            self.disk.write_bar(at, &value.to_le_bytes()[..len]);
        };
        write(DEVICE_STATUS, 1, 3);
        for (n, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            write(0x08, 4, n);
            write(0x0c, 4, half);
        }
        write(DEVICE_STATUS, 1, 11);
        write(0x18, 2, QUEUE.into());
        write(0x20, 4, table as u32);
        write(0x28, 4, avail as u32);
        write(0x30, 4, used as u32);
        write(0x1c, 2, 1);
        write(DEVICE_STATUS, 1, 15);
    }

    /// The driver resets the device and sets it up again, with empty rings.
    pub(super) fn restart(&mut self) {
        self.disk.write_bar(DEVICE_STATUS, &[0]);
        for ring in [self.avail, self.used] {
            let empty = self.memory.write_obj(0u32, GuestAddress(ring));
            empty.expect("in memory");
        }
        (self.descriptors, self.requests) = (0, 0);
        self.start(true);
    }

    /// Makes the chain that starts at descriptor `head` available.
    pub(super) fn offer(&mut self, head: u16) {
        let put = |at, value: u16| {
            self.memory
                .write_obj(value, GuestAddress(at))
                .expect("room")
        };
        put(self.avail + 4 + 2 * u64::from(self.requests), head);
        self.requests += 1;
        put(self.avail + 2, self.requests);
    }

    pub(super) fn status_of(&self, request: u16) -> u8 {
        let at = GuestAddress(STATUS + u64::from(request));
        self.memory.read_obj(at).expect("in memory")
    }

    /// Adds a chain of these buffers (address, length, for the device to write).
    pub(super) fn chain(&mut self, buffers: &[(u64, u32, bool)]) {
        let head = self.descriptors;
        for (n, &(address, len, write)) in (1..).zip(buffers) {
            let mut flags = 0;
            if write {
                flags |= VRING_DESC_F_WRITE as u16;
            }
            if n < buffers.len() {
                flags |= VRING_DESC_F_NEXT as u16;
            }
            let next = self.descriptors + 1;
            let raw = RawDescriptor::from(Descriptor::new(address, len, flags, next));
            let at = GuestAddress(self.table + 16 * u64::from(self.descriptors));
            self.memory.write_obj(raw, at).expect("in memory");
            self.descriptors = next;
        }
        assert!(self.descriptors <= QUEUE);
        self.offer(head);
    }

    /// Adds a request as Linux does: header, data, status. Returns its number, from 0.
    pub(super) fn add(&mut self, kind: u32, sector: u64, data: &[(u64, u32)]) -> u16 {
        let n = self.requests;
        let header = HEADERS + 16 * u64::from(n);
        let status = STATUS + u64::from(n);
        let put = |at| GuestAddress(at);
        self.memory.write_obj(kind, put(header)).expect("in memory");
        self.memory
            .write_obj(sector, put(header + 8))
            .expect("in memory");
        self.memory
            .write_obj(NOT_WRITTEN, put(status))
            .expect("in memory");
        let read = matches!(kind, IN | GET_ID);
        let mut buffers = vec![(header, 16, false)];
        buffers.extend(data.iter().map(|&(at, len)| (at, len, read)));
        buffers.push((status, 1, true));
        self.chain(&buffers);
        n
    }

    pub(super) fn notify(&mut self) -> Vec<DiskRequest> {
        self.disk.write_bar(NOTIFY, &[0, 0]);
        self.disk.device.take_issued()
    }

    pub(super) fn complete(
        &mut self,
        id: u64,
        result: Result<Vec<u8>, DiskError>,
    ) -> Vec<DiskRequest> {
        let completion = DiskCompletion::new(id, result);
        let done = self.disk.device.done(id);
        self.disk.with_device(0, |blk, queues, memory| {
            blk.complete(done, &completion, queues, memory)
        });
        self.disk.device.take_issued()
    }

    pub(super) fn used(&self) -> u16 {
        let at = GuestAddress(self.used + 2);
        self.memory.read_obj(at).expect("in memory")
    }

    pub(super) fn is_broken(&mut self) -> bool {
        let mut status = [0];
        self.disk.read_bar(DEVICE_STATUS, &mut status);
        status[0] & NEEDS_RESET != 0
    }

    pub(super) fn data(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory
            .read_slice(&mut data, GuestAddress(at))
            .expect("in memory");
        data
    }

    /// Adds one request, and expects that it is answered at once with `status`.
    pub(super) fn refused(&mut self, status: u32, kind: u32, sector: u64, data: &[(u64, u32)]) {
        let n = self.add(kind, sector, data);
        assert_eq!(self.notify(), [], "kind {kind} at {sector}");
        assert_eq!(
            u32::from(self.status_of(n)),
            status,
            "kind {kind} at {sector}"
        );
        assert!(!self.is_broken());
    }
}
