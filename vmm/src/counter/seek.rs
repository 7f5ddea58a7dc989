//! Seeking a place, after rr (O'Callahan et al., "Engineering Record and Replay for
//! Deployability", 2017, section 2.4; `ReplaySession::emulate_async_signal` in its sources).
//!
//! A counter interrupts the processor some events after the one that it was programmed for: its
//! *skid*. So the processor runs freely until it is short of the place by more than the skid, and
//! from there on from breakpoint to breakpoint at the place's RIP, until count and registers match.

use std::fmt;

use crate::cpu::{CountedStop, Registers};

/// A processor with a counter of retired events.
pub trait Seekable {
    /// Why the processor stopped by itself.
    type Exit;
    /// Why it cannot go on.
    type Error;

    /// Events since the last execution point. Exact wherever the processor stands.
    ///
    /// # Errors
    /// The processor's.
    fn count(&mut self) -> Result<u64, Self::Error>;

    /// General registers, as they are [compared](Registers::compared).
    ///
    /// # Errors
    /// The processor's.
    fn registers(&mut self) -> Result<Registers, Self::Error>;

    /// By how many events at most the counter stops too late.
    fn skid(&self) -> u64;

    /// Runs for `events` events, at least 1, and up to [`Seekable::skid`] more. May stop earlier.
    ///
    /// # Errors
    /// The processor's.
    fn run_for(&mut self, events: u64) -> Result<Ran<Self::Exit>, Self::Error>;

    /// Executes one instruction or more, until the next one is at `rip`; or for `events` events,
    /// at least 1, and up to [`Seekable::skid`] more. May stop earlier.
    ///
    /// # Errors
    /// The processor's.
    fn run_to(&mut self, rip: u64, events: u64) -> Result<Ran<Self::Exit>, Self::Error>;

    /// Executes one instruction, or one iteration of a string instruction.
    ///
    /// # Errors
    /// The processor's.
    fn step(&mut self) -> Result<Ran<Self::Exit>, Self::Error>;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran<E> {
    /// Where it was to end, or earlier.
    Stopped,
    /// The processor made an exit.
    Exit(E),
}

/// Why a place was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<E> {
    /// The count went past the place's, and nothing matched before.
    Passed,
    /// The counter stopped the processor later than its skid allows, so the place may be behind. It
    /// may be ahead the next time: some counters are late now and then (AMD's, since Zen).
    Overrun {
        /// How many events after it was to.
        late: u64,
    },
    /// The processor made an exit before it came to the place.
    Exit(E),
    /// The processor stopped too often with the same count.
    Stuck,
}

/// A place that was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss<E> {
    /// Why.
    pub why: Why<E>,
    /// The place's count.
    pub wanted: u64,
    /// Count where the search ended.
    pub count: u64,
    /// What differs from the place's registers: where count and RIP were right for the last time,
    /// or else where the search ended.
    pub differences: Vec<RegisterDifference>,
}

/// A register that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterDifference {
    /// Its name.
    pub name: &'static str,
    /// Value at the place sought.
    pub wanted: u64,
    /// Value found.
    pub found: u64,
}

impl RegisterDifference {
    fn all(wanted: &Registers, found: &Registers) -> Vec<Self> {
        let values = wanted.fields().into_iter().zip(found.fields());
        Registers::NAMES
            .into_iter()
            .zip(values)
            .filter(|(_, (wanted, found))| wanted != found)
            .map(|(name, (wanted, found))| Self {
                name,
                wanted,
                found,
            })
            .collect()
    }
}

impl<E: fmt::Debug> fmt::Display for Miss<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the place at count {} was not found: ", self.wanted)?;
        let count = self.count;
        match &self.why {
            Why::Passed => write!(f, "the guest went past it, to count {count}")?,
            Why::Overrun { late } => write!(
                f,
                "the counter stopped the guest {late} events after it was to, at count {count}, \
                 which is more than is allowed for"
            )?,
            Why::Exit(exit) => write!(f, "the guest made an exit at count {count}: {exit:?}")?,
            Why::Stuck => write!(f, "the guest stopped too often at count {count}")?,
        }
        for (n, difference) in self.differences.iter().enumerate() {
            let RegisterDifference {
                name,
                wanted,
                found,
            } = difference;
            let separator = if n == 0 { ';' } else { ',' };
            write!(f, "{separator} {name} is {found:#x}, not {wanted:#x}")?;
        }
        Ok(())
    }
}

/// Ends a search that stops again and again without a new count.
struct Patience {
    count: u64,
    stops: u64,
    limit: u64,
}

impl Patience {
    fn new(limit: u64) -> Self {
        Self {
            count: u64::MAX,
            stops: 0,
            limit,
        }
    }

    /// Whether another stop at `count` is one too many.
    fn is_lost(&mut self, count: u64) -> bool {
        if self.count != count {
            (self.count, self.stops) = (count, 0);
        }
        self.stops += 1;
        self.stops > self.limit
    }
}

/// Brings `cpu` to `place`, which lies before it. `patience` limits the stops with the same count:
/// a string instruction makes one an iteration, and a host that is busy may add some.
///
/// The place found is the first one with its count and registers.
///
/// # Errors
/// The processor's. A [`Miss`] is the answer, not an error.
pub fn seek<S: Seekable>(
    cpu: &mut S,
    place: &CountedStop,
    patience: u64,
) -> Result<Result<(), Miss<S::Exit>>, S::Error> {
    let wanted = &place.registers;
    // Where count and RIP were right, but other registers were not.
    let mut nearest = None;
    let mut stops = Patience::new(patience);
    let why = loop {
        let count = cpu.count()?;
        if count > place.count {
            break Why::Passed;
        }
        if stops.is_lost(count) {
            break Why::Stuck;
        }
        // To end at a lower count than the place's, whatever the skid. At the same count it might
        // have gone past the place already.
        let free = (place.count - count).saturating_sub(cpu.skid() + 1);
        let ran = if free > 0 {
            cpu.run_for(free)?
        } else {
            let registers = cpu.registers()?;
            if registers.rip != wanted.rip {
                // Past the count there is nothing to find, and no breakpoint may ever come.
                cpu.run_to(wanted.rip, place.count - count + 1)?
            } else {
                if count == place.count {
                    if registers == *wanted {
                        return Ok(Ok(()));
                    }
                    nearest = Some(registers);
                }
                cpu.step()?
            }
        };
        if free > 0 {
            let now = cpu.count()?;
            if now >= place.count {
                break Why::Overrun {
                    late: now - (count + free),
                };
            }
        }
        if let Ran::Exit(exit) = ran {
            break Why::Exit(exit);
        }
    };
    let found = match nearest {
        Some(registers) => registers,
        None => cpu.registers()?,
    };
    Ok(Err(Miss {
        why,
        wanted: place.count,
        count: cpu.count()?,
        differences: RegisterDifference::all(wanted, &found),
    }))
}

/// Where [`settle`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled<E> {
    /// At a place that its count and registers name.
    At(CountedStop),
    /// The processor made an exit.
    Exit(E),
    /// The counter did not count within the steps.
    Nowhere,
}

/// Steps to the next place that is the first one with its count, with `steps` at most.
///
/// # Errors
/// The processor's.
pub fn settle<S: Seekable>(cpu: &mut S, steps: u64) -> Result<Settled<S::Exit>, S::Error> {
    let before = cpu.count()?;
    for _ in 0..steps {
        if let Ran::Exit(exit) = cpu.step()? {
            return Ok(Settled::Exit(exit));
        }
        let count = cpu.count()?;
        if count != before {
            let registers = cpu.registers()?;
            return Ok(Settled::At(CountedStop { count, registers }));
        }
    }
    Ok(Settled::Nowhere)
}
