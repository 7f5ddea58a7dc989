//! What debuggers need, on a fake processor.

use super::FakeCpu;
use crate::cpu::debug::{DebugCpu, FloatRegisters, SystemRegisters};
use crate::cpu::{CpuError, CpuState, Exit};
use crate::ram::GuestRam;

impl FakeCpu {
    /// See [`GuestCpu::twin`](crate::cpu::GuestCpu::twin).
    pub(super) fn twin_with(&mut self, memory: &GuestRam) -> Result<Self, CpuError> {
        let mut twin = FakeCpu::new(
            self.script.clone(),
            memory.clone(),
            self.kicks.roll(u64::MAX),
        );
        twin.cr4_reserved = self.cr4_reserved;
        twin.idt = self.idt;
        twin.window_wanted = self.window_wanted;
        twin.load(&self.save()?)?;
        Ok(twin)
    }
}

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
