//! A processor that counts its instructions, by stepping through them one by one.
//!
//! For hosts without a performance counter: it makes every place in the instruction stream nameable
//! at the price of an exit an instruction. Far too slow to work with, it runs the whole engine, on
//! real KVM, with interrupts between any two instructions.
//!
//! # What is counted
//!
//! Since the last execution point: instructions that were executed, iterations of string
//! instructions, and deliveries of exceptions and interrupts. So every boundary between two of
//! these has a count of its own. The access that an exit was about belongs to that exit.
//!
//! # What goes wrong with single steps, and what is done about it
//!
//! RFLAGS.TF stops the processor after one instruction, but for these (measured on kvm_amd under
//! emulation):
//!
//! - STI, MOV SS and POP SS take the next instruction along, mostly. Both are counted, and never
//!   separated: a stop between them could not be found again.
//! - Delivery of an exception or interrupt clears TF and runs on. The first byte of every handler
//!   is a stop while the guest is stepped (`entrances`).
//! - SYSCALL and SYSRET change TF. The VMM executes them (`syscall`).
//! - TF shows in what PUSHF, SYSCALL and deliveries save. It is removed.
//!
//! A guest that sets TF itself is refused. One that reads the code of its own interrupt handlers
//! sees the stops.

mod decode;
mod entrances;
mod guest_cpu;
mod syscall;

use std::rc::Rc;

use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

use self::decode::{Branch, Decoded, Kind, LONGEST, decode};
use self::entrances::Entrances;
use super::KvmCpu;
use super::vcpu::Returned;
use crate::counter::{Branches, Ran, Seekable, Tally};
use crate::cpu::{CpuError, Exit, GuestCpu, RFLAGS_TF, Registers};
use crate::dice::Dice;
use crate::ram::GuestRam;

const RSP: usize = 6;
/// KVM reports a write to this port with RIP behind it already (KVM_X86_QUIRK_OUT_7E_INC_RIP).
const QUIRK_PORT: u16 = 0x7e;
/// Instructions go two at a time at most.
const SKID: u64 = 1;

/// Where the processor is stopped without a reason of its own, for inputs to arrive.
#[derive(Debug, Clone)]
pub enum StopPlan {
    /// Nowhere: only where the host interrupts it.
    Never,
    /// After a random number of counted events since the last stop, again and again.
    Random {
        /// Where the numbers come from.
        dice: Dice,
        /// Least number, at least 1.
        least: u64,
        /// Largest number.
        most: u64,
    },
}

impl StopPlan {
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Random { dice, least, most } => {
                Some(*least + dice.roll(most.saturating_sub(*least) + 1))
            }
        }
    }
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    /// An instruction was executed.
    Executed,
    /// An exception or interrupt was delivered, whose handler will return to `from`.
    Delivered { from: u64 },
    /// The processor made an exit.
    Exit(Exit),
}

impl Did {
    fn exit(self) -> Option<Exit> {
        match self {
            Self::Exit(exit) => Some(exit),
            Self::Executed | Self::Delivered { .. } => None,
        }
    }
}

/// A vCPU of KVM that is single-stepped.
pub struct SteppedCpu {
    cpu: KvmCpu,
    entrances: Entrances,
    stops: StopPlan,
    /// Counted events up to the next stop.
    left: Option<u64>,
    /// Counted events since the last execution point.
    count: u64,
    /// And between the last two.
    last_count: u64,
    window_wanted: bool,
    /// An interrupt, or a fault, is to be delivered before the next instruction.
    injected: bool,
    /// Conditional branches executed, for a counter.
    tally: Rc<Tally>,
    /// The same.
    branches: Branches,
}

impl SteppedCpu {
    /// Steps `cpu`, and stops it as `stops` says.
    #[must_use]
    pub fn new(mut cpu: KvmCpu, mut stops: StopPlan) -> Self {
        cpu.sync_control_registers();
        Self {
            left: stops.next(),
            stops,
            ..Self::within(cpu)
        }
    }

    /// Steps `cpu` when it is asked to, and else does nothing to it.
    pub(super) fn within(cpu: KvmCpu) -> Self {
        Self {
            cpu,
            entrances: Entrances::default(),
            stops: StopPlan::Never,
            left: None,
            count: 0,
            last_count: 0,
            window_wanted: false,
            injected: false,
            tally: Rc::default(),
            branches: Branches::default(),
        }
    }

    /// The conditional branches that it executes.
    #[must_use]
    pub fn tally(&self) -> Rc<Tally> {
        self.tally.clone()
    }

    pub(super) fn cpu(&mut self) -> &mut KvmCpu {
        &mut self.cpu
    }

    pub(super) fn cpu_ref(&self) -> &KvmCpu {
        &self.cpu
    }

    /// Whether an interrupt is to be delivered before the next instruction.
    pub(super) fn is_injected(&self) -> bool {
        self.injected
    }

    pub(super) fn set_injected(&mut self, injected: bool) {
        self.injected = injected;
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestRam {
        self.cpu.memory()
    }

    /// Events counted between the last two execution points.
    #[must_use]
    pub fn last_count(&self) -> u64 {
        self.last_count
    }

    /// Finishes the last exit's access. String instructions make one exit after another.
    pub(super) fn begin(&mut self) -> Result<Option<Exit>, CpuError> {
        Ok(match self.cpu.enter_without_running()? {
            Returned::Exit(Exit::Kicked) | Returned::Stepped | Returned::Window => None,
            Returned::Exit(exit) => Some(exit),
        })
    }

    /// Leaves the guest as if it had not been stepped.
    pub(super) fn end(&mut self) -> Result<(), CpuError> {
        self.entrances.open(self.cpu.memory());
        self.cpu.single_step(false)
    }

    /// Runs until `arrived`, a planned stop, or an exit.
    fn run_until(
        &mut self,
        mut arrived: impl FnMut(&mut Self) -> Result<bool, CpuError>,
    ) -> Result<Ran<Exit>, CpuError> {
        loop {
            // Before a stop at the same place, so that a replay finds no window on its way to one.
            if self.window_wanted && self.ready_for_interrupt() {
                return Ok(Ran::Exit(Exit::InterruptWindow));
            }
            if self.left == Some(0) {
                self.left = self.stops.next();
                return Ok(Ran::Exit(Exit::Kicked));
            }
            if self.tally.is_due() {
                return Ok(Ran::Exit(Exit::Kicked));
            }
            if let Some(exit) = self.advance()? {
                return Ok(Ran::Exit(exit));
            }
            if arrived(self)? {
                return Ok(Ran::Stopped);
            }
        }
    }

    fn counted(&mut self, events: u64) {
        self.count += events;
        self.left = self.left.map(|left| left.saturating_sub(events));
    }

    /// Executes what cannot be separated: an instruction, two of them behind STI, or a delivery.
    fn advance(&mut self) -> Result<Option<Exit>, CpuError> {
        let sregs = self.cpu.control_registers()?;
        let start = self.cpu.registers()?;
        // Also gives a handler that begins here its own byte, to be decoded and executed.
        self.entrances.close(&mut self.cpu, &sregs, start.rip);
        let instruction = match self.injected {
            true => None,
            false => self.instruction(&sregs, start.rip),
        };
        let Some(Decoded { kind, branch, len }) = instruction else {
            return Ok(self.step(&start)?.exit());
        };
        if syscall::can_execute(kind, &sregs) {
            syscall::execute(&mut self.cpu, kind, len, sregs)?;
            // Brings the shared page up to date.
            self.begin()?;
            self.counted(1);
            return Ok(None);
        }
        if let Kind::PopFlags { offset } = kind {
            self.refuse_trap_flag(start.gpr[RSP].wrapping_add(offset))?;
        }
        let next = start.rip.wrapping_add(len);
        let shadowed = match kind {
            Kind::Shadowing => self.instruction(&sregs, next),
            _ => None,
        };
        let did = self.step(&start)?;
        match (kind, did) {
            (Kind::Shadowing, Did::Executed) => {
                let exit = self.leave_shadow(next)?;
                if exit.is_none() {
                    self.passed(shadowed.and_then(|next| next.branch));
                }
                return Ok(exit);
            }
            (_, Did::Executed) if branch.is_some() => self.passed(branch),
            // Not the instruction itself has faulted, but the one that it took along.
            (Kind::Shadowing, Did::Delivered { from }) if from != start.rip => self.counted(1),
            (Kind::PushFlags, Did::Executed) => self.hide_trap_flag(0)?,
            _ => {}
        }
        Ok(did.exit())
    }

    /// An instruction was executed that is this branch, if it is one.
    fn passed(&mut self, branch: Option<Branch>) {
        if let Some(branch) = branch {
            self.tally.count();
            self.branches.all += 1;
            self.branches.unusual += u64::from(branch == Branch::Unusual);
        }
    }

    /// The instruction behind STI or the like, at `next`, if it was not taken along.
    fn leave_shadow(&mut self, next: u64) -> Result<Option<Exit>, CpuError> {
        if self.cpu.rip()? != next {
            self.counted(1);
            return Ok(None);
        }
        loop {
            let sregs = self.cpu.control_registers()?;
            let start = self.cpu.registers()?;
            self.entrances.close(&mut self.cpu, &sregs, start.rip);
            match self.step(&start)? {
                // Not here.
                Did::Exit(Exit::Kicked) => {}
                did => return Ok(did.exit()),
            }
        }
    }

    /// One step of the processor: an instruction or a delivery, counted.
    fn step(&mut self, start: &Registers) -> Result<Did, CpuError> {
        // Again before every step: KVM forgets it when the instruction changes RFLAGS.
        self.cpu.single_step(true)?;
        let stop = self.cpu.run_once()?;
        let rip = self.cpu.rip()?;
        match stop {
            Returned::Exit(Exit::Io(access)) => {
                let at = rip - u64::from(access.port == QUIRK_PORT && access.size == 1);
                let handler = [rip, at].into_iter().find(|&rip| self.is_stop(start, rip));
                let Some(handler) = handler else {
                    return Ok(Did::Exit(Exit::Io(access)));
                };
                self.begin()?;
                let mut registers = self.cpu.registers()?;
                registers.rip = handler;
                self.cpu.set_registers(&registers)?;
                // Now, not at the next entry: there they would replace the flags that have TF from
                // KVM_SET_GUEST_DEBUG, which remembers the RIP that it was called at.
                self.begin()?;
                self.delivered()
            }
            // The host had something to do between the delivery and the handler.
            Returned::Exit(Exit::Kicked) if self.is_stop(start, rip) && self.moved(start)? => {
                self.delivered()
            }
            // Or behind an instruction after which there is no debug stop.
            Returned::Exit(Exit::Kicked) if self.moved(start)? => self.executed(),
            Returned::Exit(exit) => Ok(Did::Exit(exit)),
            Returned::Stepped | Returned::Window => self.executed(),
        }
    }

    fn executed(&mut self) -> Result<Did, CpuError> {
        if self.injected {
            return Err(CpuError::UnknownExit(
                "an interrupt was injected, and the guest went on as if it was not".into(),
            ));
        }
        self.counted(1);
        Ok(Did::Executed)
    }

    /// Whether an exit at `rip` is a stop at a handler's entrance.
    fn is_stop(&self, start: &Registers, rip: u64) -> bool {
        self.entrances.is_closed(rip) && (self.injected || rip != start.rip)
    }

    fn moved(&mut self, start: &Registers) -> Result<bool, CpuError> {
        let registers = self.cpu.registers()?;
        Ok((registers.rip, registers.gpr[RSP]) != (start.rip, start.gpr[RSP]))
    }

    /// The guest stands at a handler's first instruction, with a new frame on its stack.
    fn delivered(&mut self) -> Result<Did, CpuError> {
        self.injected = false;
        self.counted(1);
        // The processor aligns the stack to 16 bytes and then pushes five words, or six with an
        // error code below them (AMD APM volume 2, section 8.9.3).
        let rsp = self.cpu.registers()?.gpr[RSP];
        let frame = 8 * u64::from(rsp.is_multiple_of(16));
        self.hide_trap_flag(frame + 16)?;
        let from = entrances::read(&mut self.cpu, rsp.wrapping_add(frame), 8);
        let from = from.try_into().map(u64::from_le_bytes);
        from.map(|from| Did::Delivered { from })
            .map_err(|_| CpuError::UnknownExit(format!("no stack at {rsp:#x}")))
    }

    /// Removes TF from the flags saved `offset` bytes above the top of the stack.
    fn hide_trap_flag(&mut self, offset: u64) -> Result<(), CpuError> {
        let at = self.cpu.registers()?.gpr[RSP].wrapping_add(offset + 1);
        let Some(physical) = self.cpu.translate(at).map(GuestAddress) else {
            return Err(CpuError::UnknownExit(format!("no stack at {at:#x}")));
        };
        let memory = self.cpu.memory();
        let hidden = memory
            .read_obj::<u8>(physical)
            .and_then(|byte| memory.write_obj(byte & !(RFLAGS_TF >> 8) as u8, physical));
        hidden.map_err(|error| CpuError::UnknownExit(format!("no stack at {at:#x}: {error}")))
    }

    /// Refuses an instruction that takes flags with TF from `linear`.
    fn refuse_trap_flag(&mut self, linear: u64) -> Result<(), CpuError> {
        let flags = entrances::read(&mut self.cpu, linear, 2);
        if flags
            .get(1)
            .is_some_and(|byte| byte & (RFLAGS_TF >> 8) as u8 != 0)
        {
            return Err(CpuError::UnknownExit(
                "the guest sets its trap flag: a guest that steps through its own programs \
                 cannot be stepped"
                    .into(),
            ));
        }
        Ok(())
    }

    /// The instruction at `rip`, if it is mapped.
    fn instruction(&mut self, sregs: &kvm_sregs, rip: u64) -> Option<Decoded> {
        let bitness = match (sregs.cs.l, sregs.cs.db) {
            (0, 0) => 16,
            (0, _) => 32,
            _ => 64,
        };
        let linear = rip.wrapping_add(sregs.cs.base);
        decode(&entrances::read(&mut self.cpu, linear, LONGEST), bitness)
    }

    /// The place is an execution point.
    fn restart(&mut self) {
        self.last_count = std::mem::take(&mut self.count);
    }
}

impl Seekable for SteppedCpu {
    type Exit = Exit;
    type Error = CpuError;

    fn count(&mut self) -> Result<u64, CpuError> {
        Ok(self.count)
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        Ok(self.cpu.registers()?.compared())
    }

    fn skid(&self) -> u64 {
        SKID
    }

    fn run_for(&mut self, events: u64) -> Result<Ran<Exit>, CpuError> {
        let end = self.count + events;
        self.run_until(|cpu| Ok(cpu.count >= end)).map(spurious)
    }

    fn run_to(&mut self, rip: u64, events: u64) -> Result<Ran<Exit>, CpuError> {
        let end = self.count + events;
        self.run_until(|cpu| Ok(cpu.count >= end || cpu.cpu.rip()? == rip))
            .map(spurious)
    }

    fn step(&mut self) -> Result<Ran<Exit>, CpuError> {
        self.run_until(|_| Ok(true)).map(spurious)
    }
}

/// A stop that the host made is an early one.
fn spurious(ran: Ran<Exit>) -> Ran<Exit> {
    match ran {
        Ran::Exit(Exit::Kicked) => Ran::Stopped,
        other => other,
    }
}
