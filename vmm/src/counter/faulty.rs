//! A counter with a fault, for the tests and trials that show what becomes of a guest then.

use super::EventCounter;
use crate::cpu::CpuError;
use crate::dice::Dice;

/// What is wrong with a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// One interrupt in so many comes too late, each time later than what the last one was a reason
    /// to allow for.
    Overruns(u64),
    /// One look at it in so many finds fewer events than there were: another counter had its place.
    LosesCounts(u64),
    /// One look at it in so many finds hundreds of events of the host's.
    CountsHost(u64),
    /// It is gone after so many looks.
    Disappears(u64),
}

/// By how many events it overruns the first time, and how many times as many each time after that.
const LATE: u64 = 7;
const LATER: u64 = 4;

/// A counter with a [`Fault`].
#[derive(Debug)]
pub struct Faulty<C> {
    counter: C,
    fault: Fault,
    dice: Dice,
    looks: u64,
    /// What it has counted in excess.
    excess: i64,
    /// By how many events it overruns the next time.
    late: u64,
}

impl<C> Faulty<C> {
    /// `counter`, with `fault`; when that shows follows from `seed`.
    #[must_use]
    pub fn new(counter: C, fault: Fault, seed: u64) -> Self {
        Self {
            counter,
            fault,
            dice: Dice(seed),
            looks: 0,
            excess: 0,
            late: LATE,
        }
    }

    /// Whether what happens once in `times` does now.
    fn strikes(&mut self, times: u64) -> bool {
        self.dice.roll(times.max(1)) == 0
    }

    fn look(&mut self) -> Result<(), CpuError> {
        self.looks += 1;
        match self.fault {
            Fault::Disappears(after) if self.looks > after => {
                Err(CpuError::Counter("it was taken away on purpose".into()))
            }
            _ => Ok(()),
        }
    }
}

impl<C: EventCounter> EventCounter for Faulty<C> {
    fn count(&mut self) -> Result<u64, CpuError> {
        self.look()?;
        let fault = self.fault;
        match fault {
            Fault::LosesCounts(times) if self.strikes(times) => self.excess -= 3,
            Fault::CountsHost(times) if self.strikes(times) => self.excess += 300,
            _ => {}
        }
        Ok(self.counter.count()?.saturating_add_signed(self.excess))
    }

    fn restart(&mut self) -> Result<(), CpuError> {
        self.look()?;
        self.excess = 0;
        self.counter.restart()
    }

    fn interrupt_after(&mut self, events: Option<u64>) -> Result<(), CpuError> {
        self.look()?;
        let fault = self.fault;
        let late = match fault {
            Fault::Overruns(times) if events.is_some() && self.strikes(times) => {
                self.late = self.late.saturating_mul(LATER);
                self.late / LATER
            }
            _ => 0,
        };
        self.counter
            .interrupt_after(events.map(|n| n.saturating_add(late)))
    }

    fn skid(&self) -> u64 {
        self.counter.skid()
    }
}
