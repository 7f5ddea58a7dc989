//! What debuggers need, on a fake processor.

use super::FakeCpu;
use crate::cpu::debug::{DebugCpu, FloatRegisters, SystemRegisters};
use crate::cpu::{CpuError, CpuState, Exit, GuestCpu};
use crate::ram::GuestRam;

impl DebugCpu for FakeCpu {
    fn system_registers(&mut self) -> Result<SystemRegisters, CpuError> {
        Ok(SystemRegisters {
            cr4: self.cr4,
            ..SystemRegisters::default()
        })
    }

    fn float_registers(&mut self) -> Result<FloatRegisters, CpuError> {
        Ok(FloatRegisters::default())
    }

    fn twin(&mut self, memory: &GuestRam) -> Result<Box<dyn GuestCpu>, CpuError> {
        let mut twin = FakeCpu::new(
            self.script.clone(),
            memory.clone(),
            self.kicks.roll(u64::MAX),
        );
        twin.cr4_reserved = self.cr4_reserved;
        twin.idt = self.idt;
        twin.window_wanted = self.window_wanted;
        twin.load(&self.save()?)?;
        Ok(Box::new(twin))
    }

    /// Leaves a trace in the registers, as the trap flag does.
    fn step(&mut self) -> Result<Option<Exit>, CpuError> {
        self.enter();
        let exit = if self.window_is_open() {
            Some(Exit::InterruptWindow)
        } else {
            self.mix(1 << 8);
            self.execute()
        };
        self.update_place();
        Ok(exit)
    }

    fn set_tripwires(&mut self, addresses: &[u64]) -> Result<(), CpuError> {
        self.tripwires = addresses.to_vec();
        Ok(())
    }
}
