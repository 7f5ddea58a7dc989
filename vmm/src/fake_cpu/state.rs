//! A fake processor's state as a whole.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::writes::NoticedAt;
use super::{FakeCpu, RFLAGS_IF, ScriptPlace};
use crate::cpu::{CpuError, CpuState, Look, Registers, digest};
use crate::ram::PageSet;

#[derive(Serialize, Deserialize)]
struct FakeState {
    place: ScriptPlace,
    interrupted: Vec<ScriptPlace>,
    gpr: [u64; 16],
    interrupts_on: bool,
    shadow: bool,
    injected: Option<u8>,
    cr4: u64,
    task_priority: u8,
}

impl FakeCpu {
    /// The same on a host with nested paging.
    #[must_use]
    pub fn under_nested_paging(mut self) -> Self {
        self.writes.is_shadow_paging = false;
        self
    }

    /// What its guest would have noticed of the hypervisor, under shadow paging. A handle.
    #[must_use]
    pub fn noticed(&self) -> Rc<RefCell<Vec<NoticedAt>>> {
        self.writes.noticed.clone()
    }
}

impl CpuState for FakeCpu {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        self.complete();
        self.held = false;
        Ok(())
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        Ok(!self.shadow && self.injected.is_none())
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        let state = FakeState {
            place: self.place,
            interrupted: self.interrupted.clone(),
            gpr: self.registers.gpr,
            interrupts_on: self.interrupts_on,
            shadow: self.shadow,
            injected: self.injected,
            cr4: self.cr4,
            task_priority: self.task_priority,
        };
        Ok(postcard::to_allocvec(&state).expect("a vector takes everything"))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        let state: FakeState =
            postcard::from_bytes(state).map_err(|error| CpuError::State(error.to_string()))?;
        self.place = state.place;
        self.interrupted = state.interrupted;
        self.registers = Registers {
            gpr: state.gpr,
            ..Registers::default()
        };
        self.interrupts_on = state.interrupts_on;
        self.shadow = state.shadow;
        self.injected = state.injected;
        self.cr4 = state.cr4;
        self.task_priority = state.task_priority;
        self.held = false;
        self.update_place();
        Ok(())
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        let flags = u64::from(self.interrupts_on) * RFLAGS_IF;
        Ok(vec![
            (
                "control registers",
                digest(&[self.cr4, self.idt, self.task_priority.into()]),
            ),
            (
                "interrupts",
                digest(&[flags, self.interrupted.len() as u64]),
            ),
        ])
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        self.writes.take(&self.registers, look, into);
        Ok(())
    }

    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        self.writes.looked_at(look, range, unchanged);
    }

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        Ok(self.writes.forget(&self.registers))
    }
}
