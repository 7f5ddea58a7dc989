//! A guest's view of the devices: what it can do to them and what it can see of them.

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::disk_driver::{self, Answer, Ask};
use crate::devices::pci::msix::NO_VECTOR;
use crate::devices::virtio::net::frame::{Frame, Header};
use crate::devices::virtio::transport::Place;
use crate::devices::{Appetite, ClockNeed, DISK, DISK_SLOT, Devices, Input, NET, NET_SLOT, Output};
use crate::disk::DiskRequest;
use crate::ram::GuestRam;

const MEMORY: usize = 1 << 17;
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const QUEUE: u16 = 16;
/// Descriptor tables of the receive and the transmit queue.
const TABLES: [u64; 2] = [0x1000, 0x4000];
/// Offsets from the table.
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x8000;
const BUFFER_BYTES: u64 = 0x600;
const TX_BYTES: u32 = 12 + 60;
/// Where the guest has the word by which it ends interrupts without an exit.
const EOI_WORD: u64 = 0x1_c000;
/// Vectors of the functions' messages, of the timer, and the register of ends of interrupts.
const NET_VECTORS: u32 = 0x41;
const DISK_VECTORS: u32 = 0x74;
const TIMER_VECTOR: u64 = 0x63;
const END_OF_INTERRUPT: u32 = 0x80b;
pub(super) const PARAVIRTUAL_EOI: u32 = 0x4b56_4d04;

/// Something that happens to the devices.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Read {
        port: u16,
        len: usize,
    },
    Write {
        port: u16,
        len: usize,
        value: u32,
    },
    /// A register of a PCI function is read, or written.
    Config {
        slot: u8,
        offset: u8,
        len: usize,
        value: Option<u32>,
    },
    /// The 8259 pair is initialised, with automatic end of interrupt or without; 4 words after the
    /// first complete it and open all lines.
    InitPic {
        auto_eoi: bool,
        words: usize,
    },
    /// The divisor of the console's speed is read, or written.
    Baud {
        divisor: Option<u16>,
    },
    /// A counter of the timer is programmed.
    Timer {
        channel: u8,
        mode: u8,
        count: u16,
    },
    /// A model specific register is read, or written.
    Msr {
        index: u32,
        value: Option<u64>,
    },
    /// The local APIC is set up. It takes the 8259 pair's interrupts, or not.
    StartApic {
        external: bool,
        periodic: bool,
        divide: u8,
        count: u32,
        paravirtual_eoi: bool,
    },
    /// The end of an interrupt of the local APIC, as a kernel does it: without an exit if the word
    /// in its memory says so.
    EndInterrupt,
    /// The guest clears that word.
    ClearEoiWord,
    /// The table of a function's messages is read, or written.
    Table {
        slot: u8,
        offset: u16,
        len: usize,
        value: Option<u64>,
    },
    /// The vector of a queue's messages is chosen, or of those of the configuration.
    Vector {
        slot: u8,
        queue: Option<u16>,
        vector: u16,
    },
    /// The message control of a function is written.
    MessageControl {
        slot: u8,
        control: u16,
    },
    /// A driver sets the card up, with messages or with its interrupt pin.
    StartCard {
        event_idx: bool,
        /// It takes frames of which something was left open, in several buffers.
        offloads: bool,
        messages: bool,
    },
    /// The driver adds buffers to a queue and notifies the card.
    Offer {
        queue: usize,
        buffers: u16,
        used_event: u16,
    },
    /// A driver sets the disk up, with messages or with its interrupt pin.
    StartDisk {
        event_idx: bool,
        messages: bool,
    },
    /// The driver asks the disk for something.
    Ask {
        ask: Ask,
        used_event: u16,
    },
    /// The disk answers one of the requests that left for it, if there are any.
    Answer {
        which: usize,
        answer: Answer,
    },
    /// The requests are issued again, on a host that took the guest over.
    IssueAgain,
    /// Time passes.
    Wait(u64),
    Frame {
        len: usize,
        fill: u8,
        /// It is TCP over IPv4, yet to be cut.
        uncut: bool,
    },
    Typed(Vec<u8>),
    Halt,
    /// The guest is about to run on.
    Enter,
    Acknowledge,
    TakeOutputs,
}

/// What the guest and the world can see of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    read: Option<u64>,
    /// The access was a #GP.
    fault: bool,
    vector: Option<u8>,
    outputs: Vec<Output>,
    issued_again: Vec<DiskRequest>,
    interrupt: bool,
    appetite: Appetite,
    reset: bool,
    off: bool,
    cmos_needs: Option<ClockNeed>,
}

/// VIRTIO_NET_F_CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4 and MRG_RXBUF.
const OFFLOADS: u32 = 1 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 15;
/// An open checksum, and segments of 1460 bytes.
const UNCUT: Header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0];

fn ring_features(event_idx: bool) -> u32 {
    u32::from(event_idx) << VIRTIO_RING_F_EVENT_IDX
}

/// How the driver of a virtio function sets it up.
struct Driver<'a> {
    slot: u8,
    place: Place,
    /// The lower half of its features.
    features: u32,
    /// First of its vectors, if it uses messages.
    vectors: Option<u32>,
    /// Descriptors of each queue.
    size: u16,
    /// Addresses of each queue's descriptor table, available ring and used ring.
    queues: &'a [[u64; 3]],
}

pub(super) struct Machine {
    pub(super) devices: Devices,
    memory: GuestRam,
    now: u64,
}

impl Machine {
    /// Devices after reset, and memory with a driver's rings, of which nothing is offered yet.
    pub(super) fn new() -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        for (queue, table) in (0..).zip(TABLES) {
            for n in 0..u64::from(QUEUE) {
                let buffer = BUFFERS + (n + queue * u64::from(QUEUE)) * BUFFER_BYTES;
                let (len, flags) = if queue == 0 {
                    (BUFFER_BYTES as u32, VRING_DESC_F_WRITE as u16)
                } else {
                    (TX_BYTES, 0)
                };
                let at = GuestAddress(table + 16 * n);
                memory.write_obj(buffer, at).expect("in memory");
                let at = GuestAddress(table + 16 * n + 8);
                memory.write_obj(len, at).expect("in memory");
                let at = GuestAddress(table + 16 * n + 12);
                memory.write_obj(flags, at).expect("in memory");
                let at = GuestAddress(table + AVAIL + 4 + 2 * n);
                memory.write_obj(n as u16, at).expect("in memory");
                let fill = [n as u8; TX_BYTES as usize];
                memory
                    .write_slice(&fill, GuestAddress(buffer))
                    .expect("in memory");
            }
        }
        Self {
            devices: Devices::new(&memory, MAC).with_disk(disk_driver::CAPACITY),
            memory,
            now: 0,
        }
    }

    /// A machine whose guest has set the devices up.
    pub(super) fn booted() -> Self {
        let mut machine = Self::new();
        for step in [
            Step::InitPic {
                auto_eoi: false,
                words: 4,
            },
            Step::Timer {
                channel: 0,
                mode: 2,
                count: 1193,
            },
            Step::Write {
                port: 0x3f9,
                len: 1,
                value: 1,
            },
            Step::StartCard {
                event_idx: true,
                offloads: false,
                messages: false,
            },
            Step::StartDisk {
                event_idx: true,
                messages: false,
            },
        ] {
            machine.take(&step);
        }
        machine
    }

    /// A machine with devices after reset at the same time, with the same memory.
    pub(super) fn clone_without_devices(&self) -> Self {
        let mut copy = Self::new();
        copy.copy_memory_and_time(self);
        copy
    }

    pub(super) fn copy_memory_and_time(&mut self, from: &Self) {
        let contents = from.contents();
        self.memory
            .write_slice(&contents, GuestAddress(0))
            .expect("the same size");
        self.now = from.now;
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; MEMORY];
        self.memory
            .read_slice(&mut contents, GuestAddress(0))
            .expect("the same size");
        contents
    }

    fn clock(&self, port: u16, write: bool) -> u64 {
        match self.devices.clock_need(port, write) {
            None => 0,
            Some(ClockNeed::Wall) => self.now + 1_700_000_000_000_000_000,
            Some(ClockNeed::Monotonic | ClockNeed::Tsc) => self.now,
        }
    }

    fn write(&mut self, port: u16, len: usize, value: u32) {
        let clock = self.clock(port, true);
        self.devices
            .write_port(port, &value.to_le_bytes()[..len], clock);
    }

    fn read(&mut self, port: u16, len: usize) -> u32 {
        let clock = self.clock(port, false);
        let mut data = [0; 4];
        self.devices.read_port(port, &mut data[..len], clock);
        u32::from_le_bytes(data)
    }

    fn msr_clock(&self, index: u32, write: bool) -> u64 {
        match self.devices.msr_clock_need(index, write) {
            None => 0,
            Some(_) => self.now,
        }
    }

    fn read_msr(&mut self, index: u32) -> Option<u64> {
        let clock = self.msr_clock(index, false);
        self.devices.read_msr(index, clock)
    }

    fn write_msr(&mut self, index: u32, value: u64) -> bool {
        let clock = self.msr_clock(index, true);
        self.devices.write_msr(index, value, clock, 0)
    }

    fn select_config(&mut self, slot: u8, offset: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc);
        self.write(0xcf8, 4, address);
    }

    fn read_config(&mut self, slot: u8, offset: u8, len: usize) -> u32 {
        self.select_config(slot, offset);
        self.read(0xcfc + u16::from(offset & 3), len)
    }

    fn write_config(&mut self, slot: u8, offset: u8, len: usize, value: u32) {
        self.select_config(slot, offset);
        self.write(0xcfc + u16::from(offset & 3), len, value);
    }

    fn set_message_control(&mut self, slot: u8, control: u16) {
        let mut capability = self.read_config(slot, 0x34, 1) as u8;
        while capability != 0 {
            if self.read_config(slot, capability, 1) == 0x11 {
                return self.write_config(slot, capability + 2, 2, control.into());
            }
            capability = self.read_config(slot, capability + 1, 1) as u8;
        }
        panic!("function {slot} has no messages");
    }

    fn start_apic(
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

    fn end_interrupt(&mut self) {
        let at = GuestAddress(EOI_WORD);
        let word: u32 = self.memory.read_obj(at).expect("in memory");
        if word & 1 != 0 {
            self.memory.write_obj(word & !1, at).expect("in memory");
        } else {
            self.write_msr(END_OF_INTERRUPT, 0);
        }
    }

    fn start_card(&mut self, event_idx: bool, offloads: bool, messages: bool) {
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

    fn start_disk(&mut self, event_idx: bool, messages: bool) {
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
        let Place {
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

    fn offer(&mut self, queue: usize, buffers: u16, used_event: u16) {
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

    pub(super) fn take(&mut self, step: &Step) -> Seen {
        self.now += 700;
        let (mut read, mut fault, mut vector) = (None, false, None);
        let (mut outputs, mut issued_again) = (Vec::new(), Vec::new());
        match *step {
            Step::Read { port, len } => read = Some(self.read(port, len).into()),
            Step::Write { port, len, value } => self.write(port, len, value),
            Step::Config {
                slot,
                offset,
                len,
                value,
            } => {
                self.select_config(slot, offset);
                match value {
                    Some(value) => self.write(0xcfc, len, value),
                    None => read = Some(self.read(0xcfc, len).into()),
                }
            }
            Step::InitPic { auto_eoi, words } => {
                let icw4 = 1 | u32::from(auto_eoi) << 1;
                for (command, vectors, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
                    self.write(command, 1, 0x11);
                    for value in [vectors, cascade, icw4, 0].into_iter().take(words) {
                        self.write(command + 1, 1, value);
                    }
                }
            }
            Step::Baud { divisor } => {
                self.write(0x3fb, 1, 0x83);
                match divisor.map(u16::to_le_bytes) {
                    Some([low, high]) => {
                        self.write(0x3f8, 1, low.into());
                        self.write(0x3f9, 1, high.into());
                    }
                    None => {
                        let (low, high) = (self.read(0x3f8, 1), self.read(0x3f9, 1));
                        read = Some(u64::from(high << 8 | low));
                    }
                }
                self.write(0x3fb, 1, 0x03);
            }
            Step::Timer {
                channel,
                mode,
                count,
            } => {
                let [low, high] = count.to_le_bytes();
                self.write(0x43, 1, (channel << 6 | 0x30 | mode << 1).into());
                self.write(0x40 + u16::from(channel), 1, low.into());
                self.write(0x40 + u16::from(channel), 1, high.into());
            }
            Step::Msr {
                index,
                value: Some(value),
            } => fault = !self.write_msr(index, value),
            Step::Msr { index, value: None } => {
                read = self.read_msr(index);
                fault = read.is_none();
            }
            Step::StartApic {
                external,
                periodic,
                divide,
                count,
                paravirtual_eoi,
            } => self.start_apic(external, periodic, divide, count, paravirtual_eoi),
            Step::EndInterrupt => self.end_interrupt(),
            Step::ClearEoiWord => {
                let at = GuestAddress(EOI_WORD);
                self.memory.write_obj(0u32, at).expect("in memory");
            }
            Step::Table {
                slot,
                offset,
                len,
                value,
            } => {
                let at = u64::from(place(slot).messages) + u64::from(offset);
                let mut data = value.unwrap_or(0).to_le_bytes();
                if value.is_some() {
                    self.devices.write_memory(at, &data[..len]);
                } else {
                    self.devices.read_memory(at, &mut data[..len]);
                    read = Some(u64::from_le_bytes(data));
                }
            }
            Step::Vector {
                slot,
                queue,
                vector,
            } => {
                let ports = place(slot).ports;
                if let Some(queue) = queue {
                    self.write(ports + 0x16, 2, queue.into());
                }
                let register = if queue.is_some() { 0x1a } else { 0x10 };
                self.write(ports + register, 2, vector.into());
            }
            Step::MessageControl { slot, control } => self.set_message_control(slot, control),
            Step::StartCard {
                event_idx,
                offloads,
                messages,
            } => self.start_card(event_idx, offloads, messages),
            Step::Offer {
                queue,
                buffers,
                used_event,
            } => self.offer(queue, buffers, used_event),
            Step::StartDisk {
                event_idx,
                messages,
            } => self.start_disk(event_idx, messages),
            Step::Ask {
                ref ask,
                used_event,
            } => {
                disk_driver::offer(&self.memory, ask, used_event);
                self.write(DISK.ports + 0x44, 2, 0);
            }
            Step::Answer { which, ref answer } => {
                let waiting = self.devices.unfinished();
                if !waiting.is_empty() {
                    let request = &waiting[which % waiting.len()];
                    let completion = disk_driver::completion(request, answer);
                    self.devices.apply(Input::Disk(completion));
                }
            }
            Step::IssueAgain => issued_again = self.devices.unfinished(),
            Step::Wait(nanos) => {
                self.now += nanos;
                self.devices.apply(Input::Tick(self.now));
            }
            Step::Frame { len, fill, uncut } => {
                let mut frame = Frame::from(vec![fill; len]);
                if uncut {
                    frame.header = UNCUT;
                }
                self.devices.apply(Input::Frame(frame));
            }
            Step::Typed(ref bytes) => self.devices.apply(Input::Typed(bytes.clone())),
            Step::Halt => self.devices.halted(),
            Step::Enter => self.devices.settle_interrupts(),
            Step::Acknowledge => {
                if self.devices.interrupt_pending() {
                    vector = Some(self.devices.acknowledge_interrupt());
                }
            }
            Step::TakeOutputs => {
                outputs = std::iter::from_fn(|| self.devices.take_output()).collect();
            }
        }
        Seen {
            read,
            fault,
            vector,
            outputs,
            issued_again,
            interrupt: self.devices.interrupt_pending(),
            appetite: self.devices.appetite(),
            reset: self.devices.reset_requested(),
            off: self.devices.is_off(),
            cmos_needs: self.devices.clock_need(0x71, false),
        }
    }
}

fn place(slot: u8) -> Place {
    if slot == NET_SLOT { NET } else { DISK }
}
