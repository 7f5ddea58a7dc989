//! A processor whose exits are made by an input.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use ftvm_vmm::cpu::{CpuError, CpuState, Exit, GuestCpu, Look, PortAccess, Registers};
use ftvm_vmm::ram::{GuestRam, PageSet};
use vm_memory::{Bytes, GuestAddress};

use super::input::Input;
use super::world::World;
use super::{MEMORY, Target};

pub(super) const IDT: u64 = 0x1_0000;
/// Windows that open without another instruction, or an interrupt.
const MOST_WINDOWS: u32 = 4;

/// An exit to come.
pub(super) enum Next {
    Port {
        access: PortAccess,
        data: Vec<u8>,
    },
    Mmio {
        address: u64,
        write: bool,
        data: Vec<u8>,
    },
    Other(Exit),
}

pub(crate) struct Guest {
    pub(super) target: Target,
    pub(super) input: Input,
    pub(super) memory: GuestRam,
    pub(super) world: Rc<RefCell<World>>,
    pub(super) next: VecDeque<Next>,
    data: Vec<u8>,
    pub(super) registers: Registers,
    pub(super) idt: u64,
    pub(super) task_priority: u8,
    /// Linear addresses outside memory are mapped to the same physical ones.
    pub(super) maps_all: bool,
    pub(super) interrupts_on: bool,
    injected: bool,
    held: bool,
    window_wanted: bool,
    windows: u32,
}

impl Guest {
    pub(crate) fn new(
        target: Target,
        input: Input,
        memory: GuestRam,
        world: Rc<RefCell<World>>,
    ) -> Self {
        Self {
            target,
            input,
            memory,
            world,
            next: VecDeque::new(),
            data: Vec::new(),
            registers: Registers::default(),
            idt: IDT,
            task_priority: 0,
            maps_all: false,
            interrupts_on: false,
            injected: false,
            held: false,
            window_wanted: false,
            windows: 0,
        }
    }

    pub(super) fn write(&mut self, port: u16, size: u8, value: u32) {
        let data = value.to_le_bytes()[..usize::from(size)].to_vec();
        let access = PortAccess {
            port,
            write: true,
            size,
            count: 1,
        };
        self.next.push_back(Next::Port { access, data });
    }

    /// An access as the input has it: to read or to write, several times or once.
    pub(super) fn access(&mut self, port: u16) {
        let size = self.input.pick(&[1u8, 1, 2, 4]);
        let count = match self.input.byte() {
            0..=7 => 16,
            8..=15 => 512 / u32::from(size),
            _ => 1,
        };
        let write = self.input.chance(3);
        let value = if write { self.input.number() } else { 0 };
        let len = usize::from(size) * count as usize;
        let data = value.to_le_bytes().into_iter().cycle().take(len).collect();
        let access = PortAccess {
            port,
            write,
            size,
            count,
        };
        self.next.push_back(Next::Port { access, data });
    }

    pub(super) fn msr(&mut self, index: u32) {
        let write = self.input.chance(3).then(|| self.input.number());
        let exit = Exit::Msr { index, write };
        self.next.push_back(Next::Other(exit));
    }

    pub(super) fn mmio(&mut self, address: u64) {
        let len = self.input.pick(&[4u8, 8, 4, 1, 2, 3]);
        let write = self.input.chance(3);
        let value = if write { self.input.number() } else { 0 };
        let data = value.to_le_bytes()[..usize::from(len)].to_vec();
        self.next.push_back(Next::Mmio {
            address,
            write,
            data,
        });
    }

    pub(super) fn store(&self, at: u64, value: &[u8]) {
        // Where there is no memory, nothing is stored.
        let _ = self.memory.write_slice(value, GuestAddress(at));
    }
}

impl GuestCpu for Guest {
    fn run(&mut self) -> Result<Exit, CpuError> {
        self.held = false;
        if std::mem::take(&mut self.injected) {
            self.interrupts_on = false; // in its handler
        }
        loop {
            if self.window_wanted && self.interrupts_on {
                self.windows += 1;
                assert!(self.windows <= MOST_WINDOWS, "held at a window");
                return Ok(Exit::InterruptWindow);
            }
            match self.next.pop_front() {
                Some(Next::Port { access, data }) => {
                    self.windows = 0;
                    self.data = data;
                    return Ok(Exit::Io(access));
                }
                Some(Next::Mmio {
                    address,
                    write,
                    data,
                }) => {
                    self.windows = 0;
                    let len = data.len() as u8;
                    self.data = data;
                    return Ok(Exit::Mmio {
                        address,
                        write,
                        len,
                    });
                }
                Some(Next::Other(exit)) => {
                    self.windows = 0;
                    return Ok(exit);
                }
                None if self.input.is_empty() => return Ok(Exit::TripleFault),
                None => {
                    self.windows = 0;
                    self.decide();
                }
            }
        }
    }

    fn io_data(&mut self) -> &mut [u8] {
        &mut self.data
    }

    fn finish_tsc(&mut self, _: u64) {}

    fn finish_msr(&mut self, value: Option<u64>) {
        self.held |= value.is_none();
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.interrupts_on && !self.held && !self.injected
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        assert!(
            self.ready_for_interrupt(),
            "{vector:#x} where none is taken"
        );
        self.injected = true;
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        Ok(self.registers)
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        Ok(0)
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        self.registers = *registers;
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        Ok(value >> 32 == 0)
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        self.held = true;
        Ok(())
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, class: u8) {
        self.task_priority = class;
    }

    fn idt_base(&mut self) -> Result<u64, CpuError> {
        Ok(self.idt)
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        (self.maps_all || linear < MEMORY).then_some(linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        Ok(self.registers.rip)
    }
}

/// Nobody takes its state over.
impl CpuState for Guest {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        Ok(true)
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: &[u8]) -> Result<(), CpuError> {
        Ok(())
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        Ok(Vec::new())
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    fn take_written_pages(&mut self, _: Look, _: &mut PageSet) -> Result<(), CpuError> {
        Ok(())
    }

    fn looked_at(&mut self, _: Look, _: Range<u64>, _: &PageSet) {}

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        Ok(false)
    }
}
