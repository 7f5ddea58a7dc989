//! A counter of a fake processor's branches, with the habits of a real one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Dice, FakeCpu};
use crate::counter::{EventCounter, Ran, Steppable};
use crate::cpu::{CpuError, Exit};

/// What a fake processor tells its counter.
#[derive(Debug, Default)]
pub(super) struct Events {
    counted: Cell<u64>,
    /// The count at which the processor is to be stopped.
    due: Cell<Option<u64>>,
}

impl Events {
    pub(super) fn count(&self) {
        self.counted.set(self.counted.get() + 1);
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.get().is_some_and(|due| self.counted.get() >= due)
    }
}

/// A counter of the branches that a [`FakeCpu`] executes: every third instruction of an
/// [`Op::Compute`](super::Op::Compute) is one.
#[derive(Debug)]
pub struct FakeCounter {
    events: Rc<Events>,
    start: u64,
    declared_skid: u64,
    true_skid: u64,
    dice: RefCell<Dice>,
}

impl FakeCounter {
    /// A counter of `cpu` that says that it stops the processor `declared_skid` events too late at
    /// most, and does so up to `true_skid` events too late, as `seed` says.
    #[must_use]
    pub fn of(cpu: &FakeCpu, declared_skid: u64, true_skid: u64, seed: u64) -> Self {
        Self {
            events: cpu.events.clone(),
            start: 0,
            declared_skid,
            true_skid,
            dice: RefCell::new(Dice(seed)),
        }
    }
}

impl EventCounter for FakeCounter {
    fn count(&mut self) -> Result<u64, CpuError> {
        Ok(self.events.counted.get() - self.start)
    }

    fn restart(&mut self) -> Result<(), CpuError> {
        self.start = self.events.counted.get();
        Ok(())
    }

    fn interrupt_after(&mut self, events: Option<u64>) -> Result<(), CpuError> {
        let late = self.dice.get_mut().roll(self.true_skid + 1);
        let due = events.map(|events| self.events.counted.get() + events + late);
        self.events.due.set(due);
        Ok(())
    }

    fn skid(&self) -> u64 {
        self.declared_skid
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
            if self.address() == rip || self.events.is_due() || self.kicks.roll(16) == 0 {
                break None;
            }
        };
        self.update_place();
        Ok(exit.map_or(Ran::Stopped, Ran::Exit))
    }

    fn end_steps(&mut self) -> Result<(), CpuError> {
        Ok(())
    }
}
