//! KVM's processor with its hardware counter.
//!
//! The guest runs freely; on the way to a place it is single-stepped and stopped by hardware
//! breakpoints. Single steps are made as [`SteppedCpu`] makes them, which hides from the guest what
//! they leave in its flags; breakpoints leave RF.
//!
//! This has not run on real hardware with a counter: what was tested is the wrapper with a
//! simulated counter, and the single steps.

use std::ops::Range;

use super::KvmCpu;
use super::branch_counter::{BranchCounter, CounterError, NEVER};
use super::stepped::SteppedCpu;
use crate::counter::{Branches, CountingCpu, EventCounter, Ran, Seekable, Steppable};
use crate::cpu::debug::DebugCpu;
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu, Look, Registers};
use crate::ram::{GuestRam, PageSet};

/// KVM's processor, which names stops by a hardware counter once that is switched on.
pub type HardwareCountingCpu = CountingCpu<FreeCpu, HardwareCounter>;

/// A [`BranchCounter`] and its skid.
pub struct HardwareCounter {
    counter: BranchCounter,
    skid: u64,
}

impl HardwareCounter {
    /// Finds out whether this host has a counter that can be used, and opens it for guests that the
    /// calling thread runs. Takes about a tenth of a second.
    ///
    /// # Errors
    /// [`CpuError::Counter`].
    pub fn open() -> Result<Self, CpuError> {
        let measured = super::branch_counter::probe().map_err(failed)?;
        for note in &measured.notes {
            log::warn!("performance counter: {note}");
        }
        let counter = BranchCounter::open(measured.row).map_err(failed)?;
        Ok(Self {
            skid: measured.skid + counter.late(),
            counter,
        })
    }
}

fn failed(error: CounterError) -> CpuError {
    CpuError::Counter(error.to_string())
}

impl EventCounter for HardwareCounter {
    fn count(&mut self) -> Result<u64, CpuError> {
        self.counter.count().map_err(failed)
    }

    fn restart(&mut self) -> Result<(), CpuError> {
        self.counter.restart().map_err(failed)
    }

    fn interrupt_after(&mut self, events: Option<u64>) -> Result<(), CpuError> {
        let events = events.unwrap_or(NEVER);
        self.counter.interrupt_after(events).map_err(failed)
    }

    fn skid(&self) -> u64 {
        self.skid
    }
}

/// KVM's processor, which runs freely and can be stepped.
pub struct FreeCpu {
    stepped: SteppedCpu,
    stepping: bool,
}

impl FreeCpu {
    /// `cpu`, running freely.
    #[must_use]
    pub fn new(cpu: KvmCpu) -> Self {
        Self {
            stepped: SteppedCpu::within(cpu),
            stepping: false,
        }
    }

    fn cpu(&mut self) -> &mut KvmCpu {
        self.stepped.cpu()
    }

    fn cpu_ref(&self) -> &KvmCpu {
        self.stepped.cpu_ref()
    }

    /// An interrupt that was injected is still on its way if the host stopped the processor before
    /// it entered the guest.
    fn look_for_interrupt(&mut self, exit: Option<Exit>) -> Result<(), CpuError> {
        if self.stepped.is_injected() {
            let waits = exit.is_none_or(|exit| exit == Exit::Kicked)
                && self.cpu_ref().event_on_its_way()?;
            self.stepped.set_injected(waits);
        }
        Ok(())
    }
}

impl Steppable for FreeCpu {
    fn step(&mut self) -> Result<Ran<Exit>, CpuError> {
        if !self.stepping {
            self.stepping = true;
            if let Some(exit) = self.stepped.begin()? {
                return Ok(Ran::Exit(exit));
            }
        }
        Seekable::step(&mut self.stepped)
    }

    fn run_to(&mut self, rip: u64) -> Result<Ran<Exit>, CpuError> {
        self.end_steps()?;
        let exit = self.cpu().run_to_breakpoint(rip)?;
        self.look_for_interrupt(exit)?;
        Ok(match exit {
            None | Some(Exit::Kicked) => Ran::Stopped,
            Some(exit) => Ran::Exit(exit),
        })
    }

    fn branches(&self) -> Branches {
        self.stepped.branches()
    }

    fn end_steps(&mut self) -> Result<(), CpuError> {
        if std::mem::take(&mut self.stepping) {
            self.stepped.end()?;
        }
        let left = self.cpu().registers()?;
        if left.compared() != left {
            self.cpu().set_registers(&left.compared())?;
        }
        Ok(())
    }
}

impl GuestCpu for FreeCpu {
    fn run(&mut self) -> Result<Exit, CpuError> {
        let exit = self.cpu().run()?;
        self.look_for_interrupt(Some(exit))?;
        Ok(exit)
    }

    fn io_data(&mut self) -> &mut [u8] {
        self.cpu().io_data()
    }

    fn finish_tsc(&mut self, value: u64) {
        self.cpu().finish_tsc(value);
    }

    fn finish_msr(&mut self, value: Option<u64>) {
        self.cpu().finish_msr(value);
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.cpu().ready_for_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        self.stepped.inject(vector)
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.cpu().request_interrupt_window(wanted);
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        self.cpu().registers()
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        self.cpu().register_digest()
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        self.cpu().set_registers(registers)
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        self.cpu().write_cr4(value)
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        self.stepped.raise_general_protection()
    }

    fn task_priority(&mut self) -> u8 {
        self.cpu().task_priority()
    }

    fn set_task_priority(&mut self, class: u8) {
        self.cpu().set_task_priority(class);
    }

    fn idt_base(&mut self) -> Result<u64, CpuError> {
        self.cpu().idt_base()
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.cpu().translate(linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        self.cpu().rip()
    }

    fn twin(&mut self, memory: &GuestRam) -> Result<Option<Box<dyn GuestCpu>>, CpuError> {
        self.cpu().twin(memory)
    }

    fn for_debugger(&mut self) -> Option<&mut dyn DebugCpu> {
        self.cpu().for_debugger()
    }
}

impl CpuState for FreeCpu {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        self.cpu().complete_access()
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        self.cpu().at_rest()
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        self.cpu().save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        // With what is on its way in it: an interrupt may have been injected before it was saved.
        self.stepped.load(state)
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        self.cpu().part_digests()
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        self.cpu().track_writes()
    }

    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        self.cpu().take_written_pages(look, into)
    }

    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        self.cpu().looked_at(look, range, unchanged);
    }

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        self.cpu().drop_translations()
    }
}
