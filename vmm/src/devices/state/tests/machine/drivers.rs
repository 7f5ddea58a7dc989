//! A guest's drivers.

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::super::disk_driver;
use super::{AVAIL, EOI_WORD, Machine, PARAVIRTUAL_EOI, QUEUE, TABLES, USED};
use crate::devices::pci::msix::NO_VECTOR;
use crate::devices::virtio::transport::Resources;
use crate::devices::{DISK, DISK_SLOT, NET, NET_SLOT};

/// Vectors of the functions' messages, of the timer, and the register of ends of interrupts.
const NET_VECTORS: u32 = 0x41;
const DISK_VECTORS: u32 = 0x74;
const TIMER_VECTOR: u64 = 0x63;
const END_OF_INTERRUPT: u32 = 0x80b;
/// VIRTIO_NET_F_CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4 and MRG_RXBUF.
const OFFLOADS: u32 = 1 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 15;

fn ring_features(event_idx: bool) -> u32 {
    u32::from(event_idx) << VIRTIO_RING_F_EVENT_IDX
}

/// How the driver of a virtio function sets it up.
struct Driver<'a> {
    slot: u8,
    place: Resources,
    /// The lower half of its features.
    features: u32,
    /// First of its vectors, if it uses messages.
    vectors: Option<u32>,
    /// Descriptors of each queue.
    size: u16,
    /// Addresses of each queue's descriptor table, available ring and used ring.
    queues: &'a [[u64; 3]],
}

impl Machine {
    pub(super) fn set_message_control(&mut self, slot: u8, control: u16) {
        let mut capability = self.read_config(slot, 0x34, 1) as u8;
        while capability != 0 {
            if self.read_config(slot, capability, 1) == 0x11 {
                return self.write_config(slot, capability + 2, 2, control.into());
            }
            capability = self.read_config(slot, capability + 1, 1) as u8;
        }
        panic!("function {slot} has no messages");
    }

    pub(super) fn start_apic(
        &mut self,
        external: bool,
        periodic: bool,
        divide: u8,
        count: u32,
        paravirtual_eoi: bool,
    ) {
        let word = if paravirtual_eoi { EOI_WORD | 1 } else { 0 };
        for (index, value) in [
            (0x80f, 0x1ff), // enabled, and the vector of spurious interrupts
            (0x808, 0),
            (0x835, 0x700 | u64::from(!external) << 16),
            (0x83e, divide.into()),
            (0x832, TIMER_VECTOR | u64::from(periodic) << 17),
            (0x838, count.into()),
            (PARAVIRTUAL_EOI, word),
        ] {
            assert!(self.write_msr(index, value), "{index:#x}");
        }
    }

    pub(super) fn end_interrupt(&mut self) {
        let at = GuestAddress(EOI_WORD);
        let word: u32 = self.memory.read_obj(at).expect("in memory");
        if word & 1 != 0 {
            self.memory.write_obj(word & !1, at).expect("in memory");
        } else {
            self.write_msr(END_OF_INTERRUPT, 0);
        }
    }

    pub(super) fn start_card(&mut self, event_idx: bool, offloads: bool, messages: bool) {
        for table in TABLES {
            for offset in [AVAIL + 2, USED + 2] {
                let at = GuestAddress(table + offset);
                self.memory.write_obj(0u16, at).expect("in memory");
            }
        }
        self.start(&Driver {
            slot: NET_SLOT,
            place: NET,
            features: ring_features(event_idx) | if offloads { OFFLOADS } else { 0 },
            vectors: messages.then_some(NET_VECTORS),
            size: QUEUE,
            queues: &TABLES.map(|table| [table, table + AVAIL, table + USED]),
        });
    }

    pub(super) fn start_disk(&mut self, event_idx: bool, messages: bool) {
        disk_driver::clear(&self.memory);
        self.start(&Driver {
            slot: DISK_SLOT,
            place: DISK,
            features: ring_features(event_idx),
            vectors: messages.then_some(DISK_VECTORS),
            size: disk_driver::QUEUE,
            queues: &[[disk_driver::TABLE, disk_driver::AVAIL, disk_driver::USED]],
        });
    }

    /// Sets a virtio function up.
    fn start(&mut self, driver: &Driver<'_>) {
        let Resources {
            ports, messages, ..
        } = driver.place;
        for (offset, value) in [(0x10, ports.into()), (0x14, messages), (0x04, 3)] {
            self.write_config(driver.slot, offset, 4, value);
        }
        let control = u16::from(driver.vectors.is_some()) << 15;
        self.set_message_control(driver.slot, control);
        let count = driver.queues.len() as u32 + 1;
        for n in (0..count).filter(|_| driver.vectors.is_some()) {
            // Each is of another priority.
            let vector = driver.vectors.map_or(0, |first| first + 0x11 * n);
            let entry = u64::from(messages + 16 * n);
            for (offset, word) in [(0, 0xfee0_0000), (4, 0), (8, vector), (12, 0u32)] {
                let bytes = word.to_le_bytes();
                self.devices.write_memory(entry + offset, &bytes);
            }
        }
        let vector = |n: u32| match driver.vectors {
            Some(_) => n,
            None => NO_VECTOR.into(),
        };
        for (register, len, value) in [
            (0x14, 1, 0),
            (0x14, 1, 3),
            (0x08, 4, 0),
            (0x0c, 4, driver.features),
            (0x08, 4, 1),
            (0x0c, 4, 1), // VIRTIO_F_VERSION_1
            (0x14, 1, 11),
            (0x10, 2, vector(0)),
        ] {
            self.write(ports + register, len, value);
        }
        for (n, [table, available, used]) in (0..).zip(driver.queues) {
            for (register, len, value) in [
                (0x16, 2, n),
                (0x18, 2, driver.size.into()),
                (0x1a, 2, vector(n + 1)),
                (0x20, 4, *table as u32),
                (0x24, 4, 0),
                (0x28, 4, *available as u32),
                (0x2c, 4, 0),
                (0x30, 4, *used as u32),
                (0x34, 4, 0),
                (0x1c, 2, 1),
            ] {
                self.write(ports + register, len, value);
            }
        }
        self.write(ports + 0x14, 1, 15);
    }

    pub(super) fn offer(&mut self, queue: usize, buffers: u16, used_event: u16) {
        let read = |at| {
            self.memory
                .read_obj::<u16>(GuestAddress(at))
                .expect("in memory")
        };
        let (available, used) = (
            read(TABLES[queue] + AVAIL + 2),
            read(TABLES[queue] + USED + 2),
        );
        let free = QUEUE.saturating_sub(available.wrapping_sub(used));
        let available = available.wrapping_add(buffers.min(free));
        for (offset, value) in [
            (2, available),
            (4 + 2 * u64::from(QUEUE), used.wrapping_add(used_event)),
        ] {
            let at = GuestAddress(TABLES[queue] + AVAIL + offset);
            self.memory.write_obj(value, at).expect("in memory");
        }
        self.write(NET.ports + 0x44, 2, queue as u32);
    }
}
