//! A counter in software, with the habits of one in hardware.

use std::cell::Cell;
use std::rc::Rc;

use super::EventCounter;
use crate::cpu::CpuError;
use crate::dice::Dice;

/// The events that a processor executes one by one, as it tells them itself, for a
/// [`TallyCounter`].
#[derive(Debug, Default)]
pub struct Tally {
    counted: Cell<u64>,
    /// The count at which the processor is to be stopped.
    due: Cell<Option<u64>>,
}

impl Tally {
    /// An event was executed.
    pub fn count(&self) {
        self.counted.set(self.counted.get() + 1);
    }

    /// How many were.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted.get()
    }

    /// Whether the processor is to be stopped.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due.get().is_some_and(|due| self.counted.get() >= due)
    }
}

/// Counts on a [`Tally`], and stops the processor too late, as counters in hardware do.
#[derive(Debug)]
pub struct TallyCounter {
    tally: Rc<Tally>,
    start: u64,
    declared_skid: u64,
    true_skid: u64,
    dice: Dice,
}

impl TallyCounter {
    /// A counter that says that it stops the processor `declared_skid` events too late at most, and
    /// does so up to `true_skid` events too late, as `seed` says.
    #[must_use]
    pub fn new(tally: Rc<Tally>, declared_skid: u64, true_skid: u64, seed: u64) -> Self {
        Self {
            start: tally.counted.get(),
            tally,
            declared_skid,
            true_skid,
            dice: Dice(seed),
        }
    }
}

/// Nobody is interrupted by a counter that is not there any more.
impl Drop for TallyCounter {
    fn drop(&mut self) {
        self.tally.due.set(None);
    }
}

impl EventCounter for TallyCounter {
    fn count(&mut self) -> Result<u64, CpuError> {
        Ok(self.tally.counted.get() - self.start)
    }

    fn restart(&mut self) -> Result<(), CpuError> {
        self.start = self.tally.counted.get();
        Ok(())
    }

    fn interrupt_after(&mut self, events: Option<u64>) -> Result<(), CpuError> {
        let late = self.dice.roll(self.true_skid + 1);
        let due = events.map(|events| self.tally.counted.get() + events + late);
        self.tally.due.set(due);
        Ok(())
    }

    fn skid(&self) -> u64 {
        self.declared_skid
    }
}
