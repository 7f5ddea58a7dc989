//! A guest's view of the devices: what it can do to them and what it can see of them.

use proptest::collection::vec;
use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::devices::{Appetite, ClockNeed, Devices, Input, NET, Output};
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
    /// A counter of the timer is programmed.
    Timer {
        channel: u8,
        mode: u8,
        count: u16,
    },
    /// A driver sets the card up.
    StartCard {
        event_idx: bool,
    },
    /// The driver adds buffers to a queue and notifies the card.
    Offer {
        queue: usize,
        buffers: u16,
        used_event: u16,
    },
    /// Time passes.
    Wait(u64),
    Frame {
        len: usize,
        fill: u8,
    },
    Typed(Vec<u8>),
    Halt,
    Acknowledge,
    TakeOutputs,
}

/// What the guest and the world can see of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    read: Option<[u8; 4]>,
    vector: Option<u8>,
    outputs: Vec<Output>,
    interrupt: bool,
    appetite: Appetite,
    reset: bool,
    cmos_needs: Option<ClockNeed>,
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
            devices: Devices::new(&memory, MAC),
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
            Step::StartCard { event_idx: true },
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

    fn read(&mut self, port: u16, len: usize) -> [u8; 4] {
        let clock = self.clock(port, false);
        let mut data = [0; 4];
        self.devices.read_port(port, &mut data[..len], clock);
        data
    }

    fn select_config(&mut self, slot: u8, offset: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc);
        self.write(0xcf8, 4, address);
    }

    fn start_card(&mut self, event_idx: bool) {
        for (offset, value) in [(0x10, NET.ports.into()), (0x04, 1)] {
            self.select_config(1, offset);
            self.write(0xcfc, 4, value);
        }
        let features = u32::from(event_idx) << VIRTIO_RING_F_EVENT_IDX;
        for (register, len, value) in [
            (0x14, 1, 0),
            (0x14, 1, 3),
            (0x08, 4, 0),
            (0x0c, 4, features),
            (0x08, 4, 1),
            (0x0c, 4, 1), // VIRTIO_F_VERSION_1
            (0x14, 1, 11),
        ] {
            self.write(NET.ports + register, len, value);
        }
        for (n, table) in (0..).zip(TABLES) {
            for offset in [AVAIL + 2, USED + 2] {
                let at = GuestAddress(table + offset);
                self.memory.write_obj(0u16, at).expect("in memory");
            }
            for (register, len, value) in [
                (0x16, 2, n),
                (0x18, 2, QUEUE.into()),
                (0x20, 4, table as u32),
                (0x24, 4, 0),
                (0x28, 4, (table + AVAIL) as u32),
                (0x2c, 4, 0),
                (0x30, 4, (table + USED) as u32),
                (0x34, 4, 0),
                (0x1c, 2, 1),
            ] {
                self.write(NET.ports + register, len, value);
            }
        }
        self.write(NET.ports + 0x14, 1, 15);
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
        let (mut read, mut vector, mut outputs) = (None, None, Vec::new());
        match *step {
            Step::Read { port, len } => read = Some(self.read(port, len)),
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
                    None => read = Some(self.read(0xcfc, len)),
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
            Step::StartCard { event_idx } => self.start_card(event_idx),
            Step::Offer {
                queue,
                buffers,
                used_event,
            } => self.offer(queue, buffers, used_event),
            Step::Wait(nanos) => {
                self.now += nanos;
                self.devices.apply(Input::Tick(self.now));
            }
            Step::Frame { len, fill } => self.devices.apply(Input::Frame(vec![fill; len])),
            Step::Typed(ref bytes) => self.devices.apply(Input::Typed(bytes.clone())),
            Step::Halt => self.devices.halted(),
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
            vector,
            outputs,
            interrupt: self.devices.interrupt_pending(),
            appetite: self.devices.appetite(),
            reset: self.devices.reset_requested(),
            cmos_needs: self.devices.clock_need(0x71, false),
        }
    }
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => prop::sample::select(&[0x20u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][..]),
        4 => prop::sample::select(&[0x40u16, 0x41, 0x42, 0x43, 0x61][..]),
        1 => prop::sample::select(&[0x70u16, 0x71][..]),
        4 => 0x3f8u16..0x400,
        1 => prop::sample::select(&[0xcf8u16, 0xcf9, 0xcfc, 0x64, 0x608][..]),
        6 => (0u16..0x24).prop_map(|n| NET.ports + 2 * n),
        1 => any::<u16>(),
    ]
}

fn width() -> impl Strategy<Value = usize> {
    prop::sample::select(&[1usize, 1, 2, 4][..])
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => any::<u8>().prop_map(u32::from),
        3 => 0..32u32,
        1 => any::<u32>(),
    ]
}

/// An access to a register in which single bytes say much, or of which several make one command.
fn command() -> impl Strategy<Value = Step> {
    let pic_command = prop::sample::select(
        &[
            0x10u32, 0x11, // initialise, without ICW4 and with it
            0x0a, 0x0b, 0x0c, // read IRR, read ISR, poll
            0x48, 0x68, // special mask mode off and on
            0x20, 0x60, 0x65, 0x80, 0x80, 0xa0, 0xc3, 0xe0, // ends of interrupts, rotations
        ][..],
    );
    let pic = prop::sample::select(&[0x20u16, 0xa0][..]);
    let mask = prop::sample::select(&[0x21u16, 0xa1][..]);
    let timer = prop::sample::select(&[0x40u16, 0x41, 0x42][..]);
    let line_control = prop::sample::select(&[0x03u32, 0x83][..]);
    let read = |port| Step::Read { port, len: 1 };
    let write = |(port, value)| Step::Write {
        port,
        len: 1,
        value,
    };
    prop_oneof![
        3 => (pic, pic_command).prop_map(write),
        3 => (mask.clone(), 0..256u32).prop_map(write),
        2 => mask.prop_map(read),
        2 => (Just(0x43u16), 0..256u32).prop_map(write),
        2 => (timer.clone(), 0..256u32).prop_map(write),
        2 => timer.prop_map(read),
        1 => (Just(0x3fbu16), line_control).prop_map(write),
    ]
}

/// Any step.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let writable = prop::sample::select(&[0x04u8, 0x0c, 0x10, 0x3c][..]);
    let config_offset = prop_oneof![writable, any::<u8>()];
    let config_value = prop::option::weighted(0.3, value());
    prop_oneof![
        8 => (port(), width()).prop_map(|(port, len)| Step::Read { port, len }),
        8 => (port(), width(), value())
            .prop_map(|(port, len, value)| Step::Write { port, len, value }),
        2 => (0..2u8, config_offset, width(), config_value)
            .prop_map(|(slot, offset, len, value)| Step::Config { slot, offset, len, value }),
        8 => command(),
        2 => (any::<bool>(), 0..=4usize)
            .prop_map(|(auto_eoi, words)| Step::InitPic { auto_eoi, words }),
        2 => (0..3u8, 0..6u8, 1..3000u16)
            .prop_map(|(channel, mode, count)| Step::Timer { channel, mode, count }),
        1 => any::<bool>().prop_map(|event_idx| Step::StartCard { event_idx }),
        4 => (0..2usize, 0..4u16, 0..4u16).prop_map(|(queue, buffers, used_event)| {
            Step::Offer { queue, buffers, used_event }
        }),
        6 => (0..5_000_000u64).prop_map(Step::Wait),
        4 => (14..1518usize, any::<u8>()).prop_map(|(len, fill)| Step::Frame { len, fill }),
        2 => vec(any::<u8>(), 1..100).prop_map(Step::Typed),
        1 => Just(Step::Halt),
        6 => Just(Step::Acknowledge),
        2 => Just(Step::TakeOutputs),
    ]
}
