//! What debuggers need, on a fake processor.

use super::FakeCpu;
use crate::cpu::debug::{DebugCpu, FloatRegisters, SystemRegisters};
use crate::cpu::{CpuError, Exit};

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
