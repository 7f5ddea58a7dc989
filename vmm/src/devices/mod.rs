//! The virtual machine's devices: functions of their state, an exit, and logged inputs.
//!
//! No device has a clock, a thread, a file descriptor or a random number generator. Where an
//! access depends on time, [`Devices::clock_need`] says so beforehand and the engine brings the
//! value from its source, live or logged. What leaves the machine is collected and fetched with
//! [`Devices::take_output`]. Given equal histories, two instances are equal.

mod accesses;
pub mod apic;
pub mod cmos;
pub mod console;
mod exchange;
mod guest_time;
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
use self::pci::{ConfigAddress, ConfigSpace};
use self::pic::Pic;
use self::pit::Pit;
use self::power::Power;
use self::virtio::blk::Blk;
use self::virtio::net::frame::Offloads;
use self::virtio::net::{Net, RX, TX};
use self::virtio::transport::{Resources, VirtioPci};
use crate::disk::{DiskRequest, SharedRead};
use crate::ram::GuestRam;

const TIMER_LINE: u8 = 0;
const NET_SLOT: u8 = 1;
const NET: Resources = Resources {
    ports: 0xc000,
    messages: pci::MEMORY_WINDOW.base,
    // A line of the master 8259: its service takes fewer port accesses than the slave's.
    line: 5,
};
const DISK_SLOT: u8 = 2;
const DISK: Resources = Resources {
    ports: 0xc100,
    messages: pci::MEMORY_WINDOW.base + 0x1000,
    line: 6, // the floppy drive's, which is not there
};

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
    /// The guest is halted, until an interrupt comes.
    is_halted: bool,
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
            is_halted: false,
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
                    let done = disk.device.done(completion.id);
                    disk.with_device(0, |blk, queues, memory| {
                        blk.complete(done, &completion, queues, memory)
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
            frame: self.net.is_running() && self.net.device.has_room(),
            drops_frames: !self.net.is_running(),
            typed: self.console.has_room(),
            disk: true,
        }
    }

    /// The guest halted: what waited for more output is handed on, and what it may wait for comes.
    pub fn halted(&mut self) {
        self.is_halted = true;
        self.collect_console(true);
        self.net.with_device(TX, |net, _, _| net.idle());
        self.update_lines();
    }

    /// Whether the guest is halted: it runs on when an interrupt is pending.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// An interrupt is pending for a guest that was halted.
    pub fn woke(&mut self) {
        self.is_halted = false;
    }

    /// The guest is about to run on, and all that happened at its exit is done.
    pub fn look_for_untold_end(&mut self) {
        self.apic.look_for_untold_end(&self.memory);
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

    /// The processor's task priority, 0 to 15 (CR8).
    #[must_use]
    pub fn task_priority(&self) -> u8 {
        self.apic.task_priority_class()
    }

    /// The guest has set the processor's task priority, 0 to 15, by a write to CR8: it is the same
    /// register as the local APIC's.
    pub fn set_task_priority(&mut self, class: u8) {
        self.apic.set_task_priority_class(class);
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

    /// The host that requests to the disk were issued on is gone: what the driver has abandoned by a
    /// reset since is over.
    pub fn forget_abandoned_requests(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.device.forget_abandoned();
        }
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

    /// Number of the last request to the disk; 0 before the first, and without a disk.
    #[must_use]
    pub fn last_request(&self) -> u64 {
        let disk = self.disk.as_ref();
        disk.map_or(0, |disk| disk.device.last_request())
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
