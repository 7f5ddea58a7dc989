//! What the guest's accesses to ports, model specific registers and memory of devices do.

use super::apic::Apic;
use super::pci::{self, Bar, MemoryBar};
use super::pit::Pit;
use super::power::Power;
use super::virtio::blk::Blk;
use super::virtio::transport::VirtioPci;
use super::{ClockNeed, DISK_SLOT, Devices, NET_SLOT, console, kvm_clock, msr, pm_timer};
use crate::rewrite::TSC_PORT;

const KEYBOARD_COMMAND: u16 = 0x64;
/// No keyboard controller is there, so its status reads as ones, which is how Linux notices, but
/// for bit 1, "input buffer full": Linux waits for that to clear before it asks for a reset.
const KEYBOARD_STATUS: u8 = 0xfd;
const KEYBOARD_RESET: u8 = 0xfe;
const RESET_CONTROL: u16 = 0xcf9;
const RESET_NOW: u8 = 0x04;

impl Devices {
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
            self.apic.look_for_untold_end(&self.memory);
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
