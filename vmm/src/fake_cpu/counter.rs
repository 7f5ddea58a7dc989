//! A fake processor that can be stepped, and tells what it executes.

use std::rc::Rc;

use super::FakeCpu;
use crate::counter::{Branches, Ran, Steppable, Tally};
use crate::cpu::{CpuError, Exit};

impl FakeCpu {
    /// The branches that it executes: every third instruction of an
    /// [`Op::Compute`](super::Op::Compute) is one.
    #[must_use]
    pub fn tally(&self) -> Rc<Tally> {
        self.tally.clone()
    }
}

impl Steppable for FakeCpu {
    fn step(&mut self) -> Result<Ran<Exit>, CpuError> {
        self.enter();
        // The host has something to do.
        let exit = if self.kicks.roll(16) == 0 {
            None
        } else {
            self.execute()
        };
        self.update_place();
        Ok(exit.map_or(Ran::Stopped, Ran::Exit))
    }

    fn run_to(&mut self, rip: u64) -> Result<Ran<Exit>, CpuError> {
        self.enter();
        let exit = loop {
            if let Some(exit) = self.execute() {
                break Some(exit);
            }
            if self.address() == rip || self.tally.is_due() || self.kicks.roll(16) == 0 {
                break None;
            }
        };
        self.update_place();
        Ok(exit.map_or(Ran::Stopped, Ran::Exit))
    }

    fn branches(&self) -> Branches {
        Branches {
            all: self.tally.counted(),
            unusual: 0,
        }
    }

    fn end_steps(&mut self) -> Result<(), CpuError> {
        Ok(())
    }
}
