//! A guest's accesses to ports, registers and PCI functions.

use super::Machine;
use crate::devices::ClockNeed;

impl Machine {
    fn clock(&self, port: u16, write: bool) -> u64 {
        match self.devices.clock_need(port, write) {
            None => 0,
            Some(ClockNeed::Wall) => self.now + 1_700_000_000_000_000_000,
            Some(ClockNeed::Monotonic | ClockNeed::Tsc) => self.now,
        }
    }

    pub(super) fn write(&mut self, port: u16, len: usize, value: u32) {
        let clock = self.clock(port, true);
        self.devices
            .write_port(port, &value.to_le_bytes()[..len], clock);
    }

    pub(super) fn read(&mut self, port: u16, len: usize) -> u32 {
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

    pub(super) fn read_msr(&mut self, index: u32) -> Option<u64> {
        let clock = self.msr_clock(index, false);
        self.devices.read_msr(index, clock)
    }

    pub(super) fn write_msr(&mut self, index: u32, value: u64) -> bool {
        let clock = self.msr_clock(index, true);
        self.devices.write_msr(index, value, clock, 0)
    }

    pub(super) fn select_config(&mut self, slot: u8, offset: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc);
        self.write(0xcf8, 4, address);
    }

    pub(super) fn read_config(&mut self, slot: u8, offset: u8, len: usize) -> u32 {
        self.select_config(slot, offset);
        self.read(0xcfc + u16::from(offset & 3), len)
    }

    pub(super) fn write_config(&mut self, slot: u8, offset: u8, len: usize, value: u32) {
        self.select_config(slot, offset);
        self.write(0xcfc + u16::from(offset & 3), len, value);
    }
}
