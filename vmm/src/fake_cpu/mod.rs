//! A scripted processor, for tests of the engine without a hypervisor.
//!
//! [`FakeCpu`] executes a [`Script`] of [`Op`]s against the real devices. Everything that it is
//! given is mixed into its registers: values read, interrupts with the instruction they came at,
//! guest memory that it loads. So a run that differs in one input, or in the place of one, ends
//! with other registers, as a real guest's would sooner or later.

mod counter;
mod debug;
mod script;
mod state;
mod writes;

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

pub use self::script::{Op, Script};
use self::writes::Writes;
pub use self::writes::{Noticed, NoticedAt};
use crate::counter::Tally;
use crate::cpu::{
    self, CpuError, Exit, GuestCpu, PortAccess, RFLAGS_RF, RFLAGS_TF, Registers, register_digest,
};
use crate::dice::Dice;
use crate::ram::{GuestRam, page_count};
use crate::rewrite::TSC_PORT;

const RFLAGS_IF: u64 = 1 << 9;
const VECTOR_GP: u64 = 13;
/// The local APIC's register.
const END_OF_INTERRUPT: u32 = 0x80b;
// Where kernels are.
const MAIN: u64 = 0xffff_ffff_8100_0000;
const HANDLERS: u64 = 0xffff_ffff_8200_0000;
const HANDLER_BYTES: u64 = 0x1000;
/// Of the instructions of an [`Op::Compute`], every so many are a branch that is counted.
const BRANCH: u32 = 3;
const RAX: usize = 0;
const RCX: usize = 2;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ScriptPlace {
    /// A handler's vector, or `None` in the main script.
    handler: Option<u8>,
    op: usize,
    /// Instructions of [`Op::Compute`] that are done.
    done: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PendingAccess {
    None,
    /// Bytes of `data` to be filled in by the VMM.
    Read(usize),
    Tsc(u64),
    Msr(Option<u64>),
}

/// A processor that executes a script.
pub struct FakeCpu {
    script: Script,
    memory: GuestRam,
    place: ScriptPlace,
    /// Where interrupts came, innermost last.
    interrupted: Vec<ScriptPlace>,
    registers: Registers,
    interrupts_on: bool,
    /// In the shadow of STI.
    shadow: bool,
    /// Nothing can be injected before the next entry.
    held: bool,
    window_wanted: bool,
    injected: Option<u8>,
    pending: PendingAccess,
    data: [u8; 8],
    data_len: usize,
    kicks: Dice,
    /// What it reports of flags that no two runs have in common.
    flags: Dice,
    /// Where a debugger wants it to stop.
    tripwires: Vec<u64>,
    /// What a counter counts.
    tally: Rc<Tally>,
    writes: Writes,
    /// CR4, as written through [`GuestCpu::write_cr4`].
    pub cr4: u64,
    /// Bits of CR4 that it does not have.
    pub cr4_reserved: u64,
    /// Faults that were raised.
    pub faults: u32,
    /// CR8.
    task_priority: u8,
    /// Answer to [`GuestCpu::idt_base`].
    pub idt: u64,
}

impl FakeCpu {
    /// At the start of `script`. `kicks` seeds where the host interrupts it and what RFLAGS.TF and RF
    /// are at its exits, which no guest can notice.
    #[must_use]
    pub fn new(script: Script, memory: GuestRam, kicks: u64) -> Self {
        let mut cpu = Self {
            writes: Writes::new(page_count(&memory)),
            script,
            memory,
            place: ScriptPlace {
                handler: None,
                op: 0,
                done: 0,
            },
            interrupted: Vec::new(),
            registers: Registers::default(),
            interrupts_on: false,
            shadow: false,
            held: false,
            window_wanted: false,
            injected: None,
            pending: PendingAccess::None,
            data: [0; 8],
            data_len: 0,
            kicks: Dice(kicks),
            flags: Dice(!kicks),
            tripwires: Vec::new(),
            tally: Rc::default(),
            cr4: 0,
            cr4_reserved: 0,
            faults: 0,
            task_priority: 0,
            idt: 0,
        };
        cpu.update_place();
        cpu
    }

    fn mix(&mut self, value: u64) {
        let rax = &mut self.registers.gpr[RAX];
        *rax = (rax.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.registers.gpr[RCX] += 1;
    }

    fn address(&self) -> u64 {
        let start = match self.place.handler {
            None => MAIN,
            Some(vector) => HANDLERS + HANDLER_BYTES * u64::from(vector),
        };
        start + (self.place.op as u64) * 64 + u64::from(self.place.done)
    }

    fn update_place(&mut self) {
        self.registers.rip = self.address();
        self.registers.rflags = 2 | if self.interrupts_on { RFLAGS_IF } else { 0 };
        // As the host has it.
        self.registers.rflags |= [0, RFLAGS_RF, RFLAGS_TF][self.flags.roll(3) as usize];
        self.registers.gpr[6] = 0x9000 - 8 * self.interrupted.len() as u64;
    }

    fn op(&self) -> Option<Op> {
        let code = match self.place.handler {
            None => Some(&self.script.main),
            Some(vector) => self.script.handlers.get(&vector),
        };
        code.and_then(|code| code.get(self.place.op)).cloned()
    }

    fn complete(&mut self) {
        match std::mem::replace(&mut self.pending, PendingAccess::None) {
            PendingAccess::None => {}
            PendingAccess::Read(len) => {
                let value = u64::from_le_bytes(self.data);
                self.mix(value ^ (len as u64) << 60);
            }
            PendingAccess::Tsc(value) => self.mix(value),
            PendingAccess::Msr(Some(value)) => self.mix(value),
            PendingAccess::Msr(None) => self.mix(VECTOR_GP),
        }
    }

    fn take_interrupt(&mut self) {
        if let Some(vector) = self.injected.take() {
            self.mix(u64::from(vector));
            self.mix(self.address());
            self.interrupted.push(self.place);
            self.place = ScriptPlace {
                handler: Some(vector),
                op: 0,
                done: 0,
            };
            self.interrupts_on = false;
        }
    }

    fn next_op(&mut self) {
        self.place.op += 1;
        self.place.done = 0;
    }

    fn port(&mut self, port: u16, size: u8, write: bool) -> Exit {
        self.data_len = usize::from(size);
        Exit::Io(PortAccess {
            port,
            write,
            size,
            count: 1,
        })
    }

    /// What happens before the first instruction.
    fn enter(&mut self) {
        self.held = false;
        self.complete();
        self.take_interrupt();
    }

    fn window_is_open(&self) -> bool {
        self.window_wanted && self.interrupts_on && !self.shadow
    }

    /// Executes one instruction. Returns its exit, if it makes one.
    fn execute(&mut self) -> Option<Exit> {
        let shadow = std::mem::take(&mut self.shadow);
        let Some(op) = self.op() else {
            return self.end_of_code();
        };
        if let Op::Compute(instructions) = op {
            if self.place.done < instructions {
                self.place.done += 1;
                self.mix(1);
                if self.place.done.is_multiple_of(BRANCH) {
                    self.tally.count();
                }
                return None;
            }
            // Not an instruction of its own.
            self.shadow = shadow;
            self.next_op();
            return None;
        }
        self.data = [0; 8];
        self.data_len = 0;
        let exit = match op {
            Op::Compute(_) => None,
            Op::Out { port, size, value } => {
                self.data[..4].copy_from_slice(&value.to_le_bytes());
                Some(self.port(port, size, true))
            }
            Op::In { port, size } => {
                self.pending = PendingAccess::Read(usize::from(size));
                Some(self.port(port, size, false))
            }
            Op::ReadTsc => {
                self.pending = PendingAccess::Read(4);
                Some(self.port(TSC_PORT, 4, false))
            }
            Op::ReadMsr(index) => Some(Exit::Msr { index, write: None }),
            Op::WriteMsr(index, value) => Some(Exit::Msr {
                index,
                write: Some(value),
            }),
            Op::ReadHole(address) => {
                self.pending = PendingAccess::Read(8);
                self.data_len = 8;
                Some(Exit::Mmio {
                    address,
                    write: false,
                    len: 8,
                })
            }
            Op::WriteHole { address, value } => {
                self.data[..4].copy_from_slice(&value.to_le_bytes());
                self.data_len = 4;
                Some(Exit::Mmio {
                    address,
                    write: true,
                    len: 4,
                })
            }
            Op::EndInterrupt { word } => self.end_interrupt(word),
            Op::SetTaskPriority(class) => {
                let before = std::mem::replace(&mut self.task_priority, class);
                (class < before).then_some(Exit::TaskPriority)
            }
            Op::Load { address, len } => {
                let mut bytes = vec![0; len];
                let known = self.memory.read_slice(&mut bytes, GuestAddress(address));
                known.expect("scripts load from guest memory");
                self.mix(u64::from(crc32fast::hash(&bytes)));
                None
            }
            Op::Store { address, value } => {
                let stored = self.memory.write_obj(value, GuestAddress(address));
                stored.expect("scripts store to guest memory");
                self.writes.add(address);
                None
            }
            Op::Sti => {
                self.shadow = !self.interrupts_on;
                self.interrupts_on = true;
                None
            }
            Op::Cli => {
                self.interrupts_on = false;
                None
            }
            Op::Halt => Some(Exit::Halt {
                interruptible: self.interrupts_on,
            }),
        };
        self.next_op();
        exit
    }

    fn end_interrupt(&mut self, word: u64) -> Option<Exit> {
        let at = GuestAddress(word);
        let bits: u32 = self.memory.read_obj(at).expect("scripts have it in memory");
        if bits & 1 == 0 {
            return Some(Exit::Msr {
                index: END_OF_INTERRUPT,
                write: Some(0),
            });
        }
        let cleared = self.memory.write_obj(bits & !1, at);
        cleared.expect("it was read");
        self.writes.add(word);
        self.mix(1);
        None
    }

    fn end_of_code(&mut self) -> Option<Exit> {
        match self.interrupted.pop() {
            Some(place) => {
                self.place = place;
                self.interrupts_on = true;
                None
            }
            None => {
                self.interrupts_on = false;
                Some(Exit::Halt {
                    interruptible: false,
                })
            }
        }
    }
}

impl GuestCpu for FakeCpu {
    fn run(&mut self) -> Result<Exit, CpuError> {
        self.enter();
        let exit = loop {
            if self.kicks.roll(16) == 0
                || self.tally.is_due()
                || self.tripwires.contains(&self.address())
            {
                break Exit::Kicked;
            }
            if self.window_is_open() {
                break Exit::InterruptWindow;
            }
            if let Some(exit) = self.execute() {
                break exit;
            }
        };
        self.update_place();
        Ok(exit)
    }

    fn io_data(&mut self) -> &mut [u8] {
        &mut self.data[..self.data_len]
    }

    fn finish_tsc(&mut self, value: u64) {
        self.pending = PendingAccess::Tsc(value);
    }

    fn finish_msr(&mut self, value: Option<u64>) {
        self.held |= value.is_none();
        self.pending = PendingAccess::Msr(value);
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.interrupts_on && !self.shadow && !self.held && self.injected.is_none()
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        assert!(
            self.ready_for_interrupt(),
            "interrupt {vector:#x} at a place where none is taken"
        );
        self.injected = Some(vector);
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        Ok(self.registers)
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        Ok(register_digest(self.registers))
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        self.registers = *registers;
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        let taken = value & self.cr4_reserved == 0;
        if taken {
            self.cr4 = value;
        }
        Ok(taken)
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        self.faults += 1;
        self.mix(VECTOR_GP);
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

    /// Memory is mapped one to one.
    fn translate(&mut self, linear: u64) -> Option<u64> {
        use vm_memory::GuestMemoryBackend;
        self.memory
            .address_in_range(GuestAddress(linear))
            .then_some(linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        Ok(self.registers.rip)
    }

    fn twin(&mut self, memory: &GuestRam) -> Result<Option<Box<dyn GuestCpu>>, CpuError> {
        Ok(Some(Box::new(self.twin_with(memory)?)))
    }

    fn for_debugger(&mut self) -> Option<&mut dyn cpu::debug::DebugCpu> {
        Some(self)
    }
}
