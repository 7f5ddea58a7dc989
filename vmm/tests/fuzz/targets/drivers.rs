//! Drivers of PCI functions: good ones, and others.

use vm_memory::{Bytes, GuestAddress};

use super::guest::{Guest, Next};

/// Ports of the functions' BARs after reset, and addresses of their tables of messages.
pub(super) const NET: u16 = 0xc000;
pub(super) const DISK: u16 = 0xc100;
const MESSAGES: u64 = 0xe000_0000;
const NOTIFY: u16 = 0x44;
/// Where the guest has its rings: a descriptor table, an available and a used ring, one after
/// another, for the receive queue, the transmit queue and the disk.
pub(super) const RINGS: [u64; 3] = [0x1000, 0x4000, 0x7000];
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

impl Guest {
    pub(super) fn pci(&mut self) {
        let slot = u32::from(self.input.below(4));
        match self.input.below(8) {
            0 => {
                let address = self.input.word();
                self.write(0xcf8, 4, address);
            }
            1..=4 => {
                let register = match self.input.byte() {
                    byte @ 0..64 => self.input.pick(&[0x04u8, 0x10, 0x14, 0x3c]) | byte & 3,
                    byte => byte,
                };
                self.write(0xcf8, 4, 1 << 31 | slot << 11 | u32::from(register & 0xfc));
                self.access(0xcfc + u16::from(register & 3));
            }
            5 => self.message_control(slot),
            6 => {
                let at = u64::from(self.input.byte()) << self.input.below(5);
                self.mmio(MESSAGES + 0x1000 * u64::from(slot & 1) + at);
            }
            _ => {
                let port = NET + (self.input.word() as u16 & 0x1ff);
                self.access(port);
            }
        }
    }

    /// Messages in place of the interrupt pin, with a table that has something in it.
    fn message_control(&mut self, slot: u32) {
        for (offset, value) in [(0, 0xfee0_0000u32), (4, 0), (8, 0x41), (12, 0)] {
            let entry = 16 * u64::from(self.input.below(4));
            self.next.push_back(Next::Mmio {
                address: MESSAGES + 0x1000 * u64::from(slot.saturating_sub(1) & 1) + entry + offset,
                write: true,
                data: value.to_le_bytes().to_vec(),
            });
        }
        self.write(0xcf8, 4, 1 << 31 | slot << 11 | 0x98);
        self.access(0xcfe);
    }

    /// A driver sets the function up, with most of its features and rings of its own.
    fn start(&mut self, ports: u16, rings: &[u64]) {
        let features = if self.input.chance(4) {
            1 << 29 | 1 << 28 | 1 << 15 | 1 << 11 | 1 << 9 | 1 << 7 | 0b11
        } else {
            self.input.word()
        };
        let size = self.input.pick(&[16u32, 256, 1, 2, 8, 128]);
        self.write(ports + 0x14, 1, 0);
        self.write(ports + 0x14, 1, 3);
        for (n, half) in [(0, features & self.offered(ports)), (1, 1)] {
            self.write(ports + 0x08, 4, n);
            self.write(ports + 0x0c, 4, half);
        }
        self.write(ports + 0x14, 1, 11);
        for (n, ring) in (0..).zip(rings) {
            self.write(ports + 0x16, 2, n);
            self.write(ports + 0x18, 2, size);
            for (register, offset) in [(0x20, 0), (0x28, AVAIL), (0x30, USED)] {
                let place = match self.input.byte() {
                    0..=15 => self.input.address(),
                    _ => ring + offset,
                };
                self.write(ports + register, 4, place as u32);
                self.write(ports + register + 4, 4, (place >> 32) as u32);
            }
            self.write(ports + 0x1a, 2, n);
            self.write(ports + 0x1c, 2, 1);
            // What was in the rings is over.
            self.store(ring + AVAIL, &[0; 4]);
            self.store(ring + USED, &[0; 4]);
        }
        self.write(ports + 0x14, 1, 15);
    }

    fn offered(&self, ports: u16) -> u32 {
        if ports == NET {
            1 << 29 | 1 << 28 | 1 << 16 | 1 << 15 | 1 << 12 | 1 << 11 | 1 << 8 | 1 << 7 | 1 << 5 | 3
        } else {
            1 << 29 | 1 << 28 | 1 << 14 | 1 << 13 | 1 << 9 | 1 << 6 | 1 << 2 | 1 << 1
        }
    }

    pub(super) fn rings(&mut self, ports: u16, rings: &[u64]) {
        let queue = self.input.below(rings.len() as u16);
        let ring = rings[usize::from(queue)];
        match self.input.below(16) {
            0 => self.start(ports, rings),
            1..=4 => self.descriptor(ring),
            5 | 6 if ports == DISK => self.request(ring),
            5 | 6 => {
                // A chain of two that is right.
                let write = u16::from(queue == 0) * 2;
                let len = self.input.len() % 0x4000;
                for (n, len, flags) in [(0u64, 12, 1 | write), (1, len, write)] {
                    self.put_descriptor(ring + 16 * n, 0x1_0000, len, flags, 1);
                }
                self.offer(ring, 1, 0);
            }
            7..=9 => {
                let count = if self.input.chance(4) {
                    1
                } else {
                    self.input.word() as u16
                };
                let head = self.input.below(16);
                self.offer(ring, count, head);
            }
            10..=13 => {
                let all = self.input.word() as u16;
                let queue = if self.input.chance(16) { queue } else { all };
                self.write(ports + NOTIFY, 2, queue.into());
            }
            14 => {
                // used_event
                let event = self.input.word() as u16;
                self.store(ring + AVAIL + 4 + 2 * 256, &event.to_le_bytes());
            }
            _ => {
                let port = ports + u16::from(self.input.byte());
                self.access(port);
            }
        }
    }

    fn put_descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        self.store(at, &address.to_le_bytes());
        self.store(at + 8, &len.to_le_bytes());
        self.store(at + 12, &flags.to_le_bytes());
        self.store(at + 14, &next.to_le_bytes());
    }

    /// A descriptor of a queue, or of an indirect table.
    fn descriptor(&mut self, ring: u64) {
        let n = u64::from(self.input.below(16));
        let table = if self.input.chance(4) { ring } else { 0x1_4000 };
        let flags = self.input.pick(&[0u16, 1, 2, 3, 4, 4, 1, 3]);
        let address = match flags {
            4 => 0x1_4000,
            _ => self.input.address(),
        };
        let len = self.input.len();
        let next = self.input.below(17);
        self.put_descriptor(table + 16 * n, address, len, flags, next);
    }

    /// A request to the disk as a driver makes it.
    fn request(&mut self, ring: u64) {
        let kind = self.input.pick(&[0u32, 1, 1, 4, 8, 11, 13, 99]);
        let header = 0xa000;
        self.store(header, &kind.to_le_bytes());
        let sector = self.input.number();
        self.store(header + 8, &sector.to_le_bytes());
        let range = [self.input.number(), self.input.number()];
        self.store(0x1_0000, range.map(u64::to_le_bytes).as_flattened());
        let len = match kind {
            11 | 13 => 16,
            _ => self.input.len(),
        };
        let to_device = if matches!(kind, 0 | 8) { 2 } else { 0 };
        self.put_descriptor(ring, header, 16, 1, 1);
        let data = if self.input.chance(8) {
            0x1_0000
        } else {
            self.input.address()
        };
        self.put_descriptor(ring + 16, data, len, 1 | to_device, 2);
        self.put_descriptor(ring + 32, 0xb000, 1, 2, 0);
        self.offer(ring, 1, 0);
        self.write(DISK + NOTIFY, 2, 0);
    }

    /// Makes `count` chains available, all of them from descriptor `head`.
    fn offer(&mut self, ring: u64, count: u16, head: u16) {
        let avail = GuestAddress(ring + AVAIL + 2);
        let index: u16 = self.memory.read_obj(avail).expect("in memory");
        for n in 0..count.min(256) {
            let at = u64::from(index.wrapping_add(n) % 16);
            self.store(ring + AVAIL + 4 + 2 * at, &head.to_le_bytes());
        }
        self.store(avail.0, &index.wrapping_add(count).to_le_bytes());
    }
}
