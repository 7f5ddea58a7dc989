//! The stepped processor as the engine sees it.

use std::ops::Range;

use super::SteppedCpu;
use crate::counter::{Branches, Ran, Seekable, Steppable, seek};
use crate::cpu::{
    Counted, CountedStop, CpuError, CpuState, Exit, GuestCpu, Look, Registers, SeekError,
};
use crate::ram::PageSet;

/// Stops of a search at the same count. Every instruction counts, so that only what the host has
/// to do at the same time can make several.
const PATIENCE: u64 = 10_000;

impl GuestCpu for SteppedCpu {
    fn run(&mut self) -> Result<Exit, CpuError> {
        if let Some(exit) = self.begin()? {
            self.restart();
            return Ok(exit);
        }
        let ran = self.run_until(|_| Ok(false));
        // Also after an error: a transfer of the state may mend it, and would leave the stops.
        self.end()?;
        let Ran::Exit(exit) = ran? else {
            unreachable!("nothing else ends the run");
        };
        if !matches!(exit, Exit::Kicked | Exit::InterruptWindow) {
            self.restart();
        }
        Ok(exit)
    }

    fn counted_stop(&mut self) -> Result<Counted, CpuError> {
        let stop = CountedStop {
            count: self.count,
            registers: Seekable::registers(self)?,
        };
        self.restart();
        Ok(Counted::At(stop))
    }

    fn seek(&mut self, stop: &CountedStop) -> Result<(), SeekError> {
        if let Some(exit) = self.begin()? {
            return Err(SeekError::Missed(format!(
                "the guest made an exit at once: {exit:?}"
            )));
        }
        let sought = seek(self, stop, PATIENCE);
        self.end()?;
        sought?.map_err(|miss| SeekError::Missed(miss.to_string()))?;
        self.restart();
        Ok(())
    }

    fn io_data(&mut self) -> &mut [u8] {
        self.cpu.io_data()
    }

    fn finish_tsc(&mut self, value: u64) {
        self.cpu.finish_tsc(value);
    }

    fn finish_msr(&mut self, value: Option<u64>) {
        self.cpu.finish_msr(value);
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.cpu.ready_for_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        self.cpu.inject(vector)?;
        self.injected = true;
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        self.cpu.registers()
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        self.cpu.register_digest()
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        self.cpu.set_registers(registers)
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        self.cpu.write_cr4(value)
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        self.cpu.raise_general_protection()?;
        self.injected = true;
        Ok(())
    }

    fn task_priority(&mut self) -> u8 {
        self.cpu.task_priority()
    }

    fn set_task_priority(&mut self, class: u8) {
        self.cpu.set_task_priority(class);
    }

    fn idt_base(&mut self) -> Result<u64, CpuError> {
        self.cpu.idt_base()
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.cpu.translate(linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        self.cpu.rip()
    }
}

/// For a counter of the branches on its [`SteppedCpu::tally`].
impl Steppable for SteppedCpu {
    fn step(&mut self) -> Result<Ran<Exit>, CpuError> {
        match self.begin()? {
            Some(exit) => Ok(Ran::Exit(exit)),
            None => Seekable::step(self),
        }
    }

    fn run_to(&mut self, rip: u64) -> Result<Ran<Exit>, CpuError> {
        match self.begin()? {
            Some(exit) => Ok(Ran::Exit(exit)),
            None => Seekable::run_to(self, rip, u64::MAX - self.count),
        }
    }

    fn branches(&self) -> Branches {
        self.branches
    }

    fn end_steps(&mut self) -> Result<(), CpuError> {
        self.end()
    }
}

impl CpuState for SteppedCpu {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        self.cpu.complete_access()
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        self.cpu.at_rest()
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        self.cpu.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        self.restart();
        self.cpu.load(state)?;
        self.injected = self.cpu.event_on_its_way()?;
        Ok(())
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        self.cpu.part_digests()
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        self.cpu.track_writes()
    }

    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        self.cpu.take_written_pages(look, into)
    }

    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        self.cpu.looked_at(look, range, unchanged);
    }

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        self.cpu.drop_translations()
    }
}
