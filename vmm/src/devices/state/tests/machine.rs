//! A guest's view of the devices: what it can do to them and what it can see of them.

mod access;
mod drivers;

use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

use super::disk_driver::{self, Answer, Ask};
use crate::devices::virtio::net::frame::{Frame, Header};
use crate::devices::virtio::transport::Resources;
use crate::devices::{Appetite, ClockNeed, DISK, Devices, Input, NET, NET_SLOT, Output};
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
    halted: bool,
    cmos_needs: Option<ClockNeed>,
}

/// An open checksum, and segments of 1460 bytes.
const UNCUT: Header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0];

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
            Step::Enter => self.devices.look_for_untold_end(),
            Step::Acknowledge => {
                if self.devices.interrupt_pending() {
                    vector = Some(self.devices.acknowledge_interrupt());
                    self.devices.woke();
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
            halted: self.devices.is_halted(),
            cmos_needs: self.devices.clock_need(0x71, false),
        }
    }
}

fn place(slot: u8) -> Resources {
    if slot == NET_SLOT { NET } else { DISK }
}
