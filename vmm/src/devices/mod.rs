//! The virtual machine's devices: functions of their state, an exit, and logged inputs.
//!
//! No device has a clock, a thread, a file descriptor or a random number generator. Where an
//! access depends on time, [`Devices::clock_need`] says so beforehand and the engine brings the
//! value from its source, live or logged. What leaves the machine is collected and fetched with
//! [`Devices::take_output`]. Given equal histories, two instances are equal.

pub mod apic;
pub mod cmos;
pub mod console;
mod exchange;
pub mod kvm_clock;
pub mod kvm_features;
pub mod msr;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm_timer;
pub mod power;
mod state;
pub mod virtio;

pub use exchange::{Appetite, ClockNeed, Input, Output};
pub use state::DeviceStateError;

use std::collections::VecDeque;

use self::apic::Apic;
use self::cmos::Cmos;
use self::console::Console;
use self::pci::{Bar, ConfigAddress, ConfigSpace, MemoryBar};
use self::pic::Pic;
use self::pit::Pit;
use self::power::Power;
use self::virtio::blk::Blk;
use self::virtio::net::frame::Offloads;
use self::virtio::net::{Net, RX, TX};
use self::virtio::transport::{Place, VirtioPci};
use crate::boot::rewrite::TSC_PORT;
use crate::disk::{DiskRequest, SharedRead};
use crate::ram::GuestRam;

const TIMER_LINE: u8 = 0;
const NET_SLOT: u8 = 1;
const NET: Place = Place {
    ports: 0xc000,
    messages: pci::MEMORY_WINDOW.base,
    // A line of the master 8259: its service takes fewer port accesses than the slave's.
    line: 5,
};
const DISK_SLOT: u8 = 2;
const DISK: Place = Place {
    ports: 0xc100,
    messages: pci::MEMORY_WINDOW.base + 0x1000,
    line: 6, // the floppy drive's, which is not there
};
const KEYBOARD_COMMAND: u16 = 0x64;
/// No keyboard controller is there, so its status reads as ones, which is how Linux notices, but
/// for bit 1, "input buffer full": Linux waits for that to clear before it asks for a reset.
const KEYBOARD_STATUS: u8 = 0xfd;
const KEYBOARD_RESET: u8 = 0xfe;
const RESET_CONTROL: u16 = 0xcf9;
const RESET_NOW: u8 = 0x04;

/// Where the devices have their registers after reset, in blocks of [`virtio::transport::BAR_BYTES`].
pub const PCI_BARS: std::ops::Range<u16> = NET.ports..DISK.ports + virtio::transport::BAR_BYTES;

/// All devices of the machine.
pub struct Devices {
    apic: Apic,
    pic: Pic,
    pit: Pit,
    cmos: Cmos,
    console: Console,
    power: Power,
    pci_address: ConfigAddress,
    host_bridge: ConfigSpace,
    net: VirtioPci<Net>,
    disk: Option<VirtioPci<Blk>>,
    memory: GuestRam,
    /// Whether programs may read the paravirtual clock without the kernel.
    clock_for_programs: bool,
    /// Whether ticks that a guest has missed are forgotten.
    merges_ticks: bool,
    /// What was told last of what the guest can receive.
    offloads: Offloads,
    reset_requested: bool,
    /// What leaves the machine and was not fetched yet, in order.
    outputs: VecDeque<Output>,
}

impl Devices {
    /// The devices as they are after reset, without a disk.
    #[must_use]
    pub fn new(memory: &GuestRam, mac: [u8; 6]) -> Self {
        Self {
            apic: Apic::default(),
            pic: Pic::new(1 << NET.line),
            pit: Pit::default(),
            cmos: Cmos::default(),
            console: Console::default(),
            power: Power::default(),
            pci_address: ConfigAddress::default(),
            host_bridge: pci::host_bridge(),
            net: VirtioPci::new(Net::new(mac), memory.clone(), NET),
            disk: None,
            memory: memory.clone(),
            clock_for_programs: true,
            merges_ticks: false,
            offloads: Offloads::default(),
            reset_requested: false,
            outputs: VecDeque::new(),
        }
    }

    /// The same; programs ask the kernel for the time, rather than read the paravirtual clock
    /// themselves.
    #[must_use]
    pub fn without_clock_for_programs(mut self) -> Self {
        self.clock_for_programs = false;
        self
    }

    /// The same for a guest that has a clock and need not count the 8254's ticks: it gets no more of
    /// them than it has time for.
    #[must_use]
    pub fn with_merged_ticks(mut self) -> Self {
        self.merges_ticks = true;
        self
    }

    /// The same with a disk of `capacity` bytes.
    #[must_use]
    pub fn with_disk(mut self, capacity: u64) -> Self {
        let blk = Blk::new(capacity);
        self.disk = Some(VirtioPci::new(blk, self.memory.clone(), DISK));
        self.pic = Pic::new(1 << NET.line | 1 << DISK.line);
        self
    }

    /// Which clock an access to `port` depends on.
    #[must_use]
    pub fn clock_need(&self, port: u16, write: bool) -> Option<ClockNeed> {
        match port {
            TSC_PORT if !write => Some(ClockNeed::Tsc),
            pm_timer::PORT if !write => Some(ClockNeed::Monotonic),
            0x71 if !write && self.cmos.needs_time() => Some(ClockNeed::Wall),
            _ if Pit::owns(port) => Some(ClockNeed::Monotonic),
            _ => None,
        }
    }

    /// One read of a port; `clock` is the value of [`Devices::clock_need`].
    pub fn read_port(&mut self, port: u16, data: &mut [u8], clock: u64) {
        data.fill(0xff);
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => data[0] = self.pic.read(port),
            _ if Pit::owns(port) => data[0] = self.pit.read(port, clock),
            0x71 => data[0] = self.cmos.read(clock),
            KEYBOARD_COMMAND => data[0] = KEYBOARD_STATUS,
            console::PORT..0x400 => data[0] = self.console.read((port - console::PORT) as u8),
            _ if Power::owns(port) => self.power.read(port, data),
            pm_timer::PORT => {
                let value = pm_timer::read(clock).to_le_bytes();
                let len = data.len().min(4);
                data[..len].copy_from_slice(&value[..len]);
            }
            pci::ADDRESS_PORT if data.len() == 4 => {
                data.copy_from_slice(&self.pci_address.read().to_le_bytes());
            }
            pci::DATA_PORT..0xd00 => self.read_pci(port, data),
            _ => {
                if let Some(offset) = offset_in(self.net.bar(), port) {
                    self.net.read_bar(offset, data);
                } else if let Some((disk, offset)) = self.disk_at(port) {
                    disk.read_bar(offset, data);
                }
            }
        }
        self.update_lines();
    }

    /// One write to a port; `clock` is the value of [`Devices::clock_need`].
    pub fn write_port(&mut self, port: u16, data: &[u8], clock: u64) {
        let value = data[0];
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic.write(port, value),
            _ if Pit::owns(port) => self.pit.write(port, value, clock),
            _ if Power::owns(port) => self.power.write(port, data),
            0x70 => self.cmos.select(value),
            KEYBOARD_COMMAND => self.reset_requested |= value == KEYBOARD_RESET,
            RESET_CONTROL if data.len() == 1 => self.reset_requested |= value & RESET_NOW != 0,
            console::PORT..0x400 => {
                self.console.write((port - console::PORT) as u8, value);
                self.collect_console(false);
            }
            pci::ADDRESS_PORT => {
                if let Ok(word) = data.try_into() {
                    self.pci_address.write(u32::from_le_bytes(word));
                }
            }
            pci::DATA_PORT..0xd00 => self.write_pci(port, data),
            _ => {
                if let Some(offset) = offset_in(self.net.bar(), port) {
                    self.net.write_bar(offset, data);
                    self.collect_frames();
                } else if let Some((disk, offset)) = self.disk_at(port) {
                    disk.write_bar(offset, data);
                    self.collect_requests();
                }
            }
        }
        self.update_lines();
    }

    /// Which clock an access to a model specific register depends on, beside
    /// [`Devices::msr_needs_wall_clock`].
    #[must_use]
    pub fn msr_clock_need(&self, index: u32, write: bool) -> Option<ClockNeed> {
        match index {
            msr::TSC if !write => Some(ClockNeed::Tsc),
            kvm_clock::WALL_CLOCK if write => Some(ClockNeed::Monotonic),
            _ if Apic::needs_time(index, write) => Some(ClockNeed::Monotonic),
            _ => None,
        }
    }

    /// Whether a write to a model specific register depends on the wall clock.
    #[must_use]
    pub fn msr_needs_wall_clock(&self, index: u32) -> bool {
        index == kvm_clock::WALL_CLOCK
    }

    /// A read of a model specific register; `clock` is the value of
    /// [`Devices::msr_clock_need`]. `None` is a #GP.
    pub fn read_msr(&mut self, index: u32, clock: u64) -> Option<u64> {
        if Apic::owns(index) {
            // What the guest ended without an exit is over.
            self.apic.settle(&self.memory);
            return self.apic.read(index, clock);
        }
        match index {
            msr::TSC => Some(clock),
            _ => msr::read(index),
        }
    }

    /// A write to a model specific register; `clock` is the value of
    /// [`Devices::msr_clock_need`], `wall` that of the wall clock if it needs that. Whether the
    /// register takes it; otherwise it is a #GP.
    pub fn write_msr(&mut self, index: u32, value: u64, clock: u64, wall: u64) -> bool {
        match index {
            kvm_clock::SYSTEM_TIME => {
                kvm_clock::set_system_time(&self.memory, value, self.clock_for_programs);
            }
            kvm_clock::WALL_CLOCK => {
                let wall_at_reset = wall.saturating_sub(clock);
                kvm_clock::set_wall_clock(&self.memory, value, wall_at_reset);
            }
            _ if Apic::owns(index) => {
                let taken = self.apic.write(index, value, clock, &self.memory);
                self.update_lines();
                return taken;
            }
            _ => return msr::write_allowed(index),
        }
        true
    }

    /// A read of memory that is not RAM. Where nothing is, all ones come back, as on a PC's bus.
    pub fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(offset) = offset_in_memory(self.net.memory_bar(), address) {
            self.net.read_memory_bar(offset, data);
        } else if let Some(disk) = &self.disk
            && let Some(offset) = offset_in_memory(disk.memory_bar(), address)
        {
            disk.read_memory_bar(offset, data);
        }
    }

    /// A write to memory that is not RAM. Where nothing is, it is lost.
    pub fn write_memory(&mut self, address: u64, data: &[u8]) {
        if let Some(offset) = offset_in_memory(self.net.memory_bar(), address) {
            self.net.write_memory_bar(offset, data);
        } else if let Some(disk) = &mut self.disk
            && let Some(offset) = offset_in_memory(disk.memory_bar(), address)
        {
            disk.write_memory_bar(offset, data);
        }
        self.update_lines();
    }

    /// The disk, if `port` is one of its, and where in its BAR.
    fn disk_at(&mut self, port: u16) -> Option<(&mut VirtioPci<Blk>, u16)> {
        let disk = self.disk.as_mut()?;
        let offset = offset_in(disk.bar(), port)?;
        Some((disk, offset))
    }

    fn read_pci(&mut self, port: u16, data: &mut [u8]) {
        match self.pci_address.target(port - pci::DATA_PORT) {
            Some((0, offset)) => self.host_bridge.read(offset, data),
            Some((NET_SLOT, offset)) => self.net.read_config_space(offset, data),
            Some((DISK_SLOT, offset)) => {
                if let Some(disk) = &mut self.disk {
                    disk.read_config_space(offset, data);
                }
            }
            _ => {} // all ones: nothing there
        }
    }

    fn write_pci(&mut self, port: u16, data: &[u8]) {
        match self.pci_address.target(port - pci::DATA_PORT) {
            Some((0, offset)) => self.host_bridge.write(offset, data),
            Some((NET_SLOT, offset)) => {
                self.net.write_config_space(offset, data);
                self.collect_frames();
            }
            Some((DISK_SLOT, offset)) => {
                if let Some(disk) = &mut self.disk {
                    disk.write_config_space(offset, data);
                    self.collect_requests();
                }
            }
            _ => {}
        }
    }

    /// Gives the machine an asynchronous input. It may lead to outputs.
    pub fn apply(&mut self, input: Input) {
        match input {
            Input::Tick(now) => {
                self.pit.advance(now);
                self.apic.advance(now);
                self.net
                    .with_device(TX, |net, queues, memory| net.tick(now, queues, memory));
            }
            Input::Frame(frame) => {
                self.net
                    .with_device(RX, |net, queues, memory| net.receive(frame, queues, memory));
            }
            Input::Typed(bytes) => self.console.typed(&bytes),
            Input::Disk(completion) => {
                if let Some(disk) = &mut self.disk {
                    disk.with_device(0, |blk, queues, memory| {
                        blk.complete(&completion, queues, memory)
                    });
                    self.collect_requests();
                }
            }
        }
        self.update_lines();
    }

    /// Which inputs the machine can take now.
    #[must_use]
    pub fn appetite(&self) -> Appetite {
        Appetite {
            timer_deadline: [
                self.pit.next_deadline(),
                self.apic.next_deadline(),
                self.net.next_deadline(),
            ]
            .into_iter()
            .flatten()
            .min(),
            frame: !self.net.is_running() || self.net.device.has_room(),
            typed: self.console.has_room(),
        }
    }

    /// The guest halted: what waited for more output is handed on, and what it may wait for comes.
    pub fn halted(&mut self) {
        self.collect_console(true);
        self.net.with_device(TX, |net, _, _| net.idle());
        self.update_lines();
    }

    /// The guest is about to run on, and all that happened at its exit is done.
    pub fn settle_interrupts(&mut self) {
        self.apic.settle(&self.memory);
    }

    /// Whether an interrupt waits for the processor.
    #[must_use]
    pub fn interrupt_pending(&self) -> bool {
        self.external_pending() || self.apic.pending(&self.memory).is_some()
    }

    /// Whether to look again as soon as the processor can be interrupted.
    #[must_use]
    pub fn wants_window(&self) -> bool {
        self.interrupt_pending() || self.apic.awaits_untold_end()
    }

    /// The processor can be interrupted, and [`Devices::interrupt_pending`] says that nothing is.
    pub fn miss_window(&mut self) {
        self.apic.insist_on_end(&self.memory);
    }

    fn external_pending(&self) -> bool {
        self.apic.takes_external() && self.pic.interrupt_pending()
    }

    /// The interrupt acknowledge cycle: the vector to inject. Only when
    /// [`Devices::interrupt_pending`].
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        if !self.external_pending()
            && let Some(vector) = self.apic.pending(&self.memory)
        {
            self.apic.acknowledge(vector, &self.memory);
            return vector;
        }
        let (vector, line) = self.pic.acknowledge();
        if line == TIMER_LINE {
            self.update_lines(); // the next tick, if more than one is due
        }
        vector
    }

    /// Whether the guest asked for a reset.
    #[must_use]
    pub fn reset_requested(&self) -> bool {
        self.reset_requested
    }

    /// Whether the guest switched itself off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.power.is_off()
    }

    /// What leaves the machine next.
    #[must_use]
    pub fn next_output(&self) -> Option<&Output> {
        self.outputs.front()
    }

    /// Takes what leaves the machine next.
    pub fn take_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the guest takes of what senders of frames leave to others.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.net.device.offloads()
    }

    /// The requests to the disk that left the machine and were not completed, in order, as they
    /// are to be issued again. Those that have yet to leave are not among them.
    #[must_use]
    pub fn unfinished(&self) -> Vec<DiskRequest> {
        let Some(disk) = &self.disk else {
            return Vec::new();
        };
        let yet_to_leave = |id| {
            let is = |output: &Output| matches!(output, Output::Disk(request) if request.id == id);
            self.outputs.iter().any(is)
        };
        let mut unfinished = disk.device.unfinished(&self.memory);
        unfinished.retain(|request| !yet_to_leave(request.id));
        unfinished
    }

    /// The reads of the disk that wait and that no change overlaps that was issued before them and
    /// is not completed, in order. Such a change may or may not be on the disk yet.
    #[must_use]
    pub fn settled_reads(&self) -> Vec<SharedRead> {
        self.disk
            .as_ref()
            .map_or_else(Vec::new, |disk| disk.device.settled_reads())
    }

    /// The read of the disk that waits with number `id`; `None` if none does.
    #[must_use]
    pub fn waiting_read(&self, id: u64) -> Option<SharedRead> {
        self.disk.as_ref()?.device.waiting_read(id)
    }

    fn collect_console(&mut self, idle: bool) {
        if let Some(bytes) = self.console.take_output(idle) {
            self.outputs.push_back(Output::Console(bytes));
        }
    }

    fn collect_frames(&mut self) {
        let frames = self.net.device.take_transmitted();
        self.outputs.extend(frames.into_iter().map(Output::Frame));
        let offloads = self.offloads();
        if std::mem::replace(&mut self.offloads, offloads) != offloads {
            self.outputs.push_back(Output::Offloads(offloads));
        }
    }

    fn collect_requests(&mut self) {
        if let Some(disk) = &mut self.disk {
            let requests = disk.device.take_issued();
            self.outputs.extend(requests.into_iter().map(Output::Disk));
        }
    }

    fn update_lines(&mut self) {
        // A tick that is requested but not yet served takes no other one on top: the 8259 has one
        // bit a line.
        if !self.pic.is_requested(TIMER_LINE) {
            let due = match self.merges_ticks {
                true => self.pit.take_due_merged(),
                false => self.pit.take_due(),
            };
            if due {
                self.pic.pulse(TIMER_LINE);
            }
        }
        if self.console.take_interrupt() {
            self.pic.pulse(console::LINE);
        }
        self.pic.set_line(NET.line, self.net.interrupt());
        while let Some(message) = self.net.take_message() {
            self.apic.deliver(message);
        }
        if let Some(disk) = &mut self.disk {
            self.pic.set_line(DISK.line, disk.interrupt());
            while let Some(message) = disk.take_message() {
                self.apic.deliver(message);
            }
        }
    }
}

/// Where in the ports of `bar` `port` is.
fn offset_in(bar: Option<Bar>, port: u16) -> Option<u16> {
    let bar = bar?;
    port.checked_sub(bar.base)
        .filter(|offset| *offset < bar.size)
}

/// Where in the memory of `bar` `address` is.
fn offset_in_memory(bar: Option<MemoryBar>, address: u64) -> Option<u16> {
    let bar = bar?;
    let offset = address.checked_sub(u64::from(bar.base))?;
    (offset < u64::from(bar.size)).then_some(offset as u16)
}
