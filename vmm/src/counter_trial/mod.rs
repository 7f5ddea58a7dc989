//! Tries the counter engine out on this host: a micro-guest gets interrupts after random numbers of
//! instructions, is recorded and replayed, and every difference is reported.
//!
//! The whole engine runs: recorder, log entries, seeking, devices, replayer. All registers are
//! compared at every exit and at every counted stop, and all of memory at the end. A recording and
//! its replay could be wrong in the same way, so the guest is also run freely and compared with one
//! whose instructions are counted.

mod error;
mod faults;
mod guest;
mod in_flight;
mod log;
mod unseen;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use logging_channel::entry::{Entry, Lsn, Payload};

pub use self::error::TrialError;
pub use self::faults::{At, Survived, survive};
use self::guest::micro_guest;
use self::log::{MemoryLog, Playback};
use crate::counter::{CountingCpu, TallyCounter};
use crate::cpu::GuestCpu;
use crate::devices::{Appetite, ClockNeed, Devices, Input, Output};
use crate::dice::Dice;
use crate::engine::{
    Ended, Engine, EngineError, EventSource, Interruption, OutputGate, Role, Step,
};
use crate::kvm::stepped::{SteppedCpu, StopPlan};
use crate::ram::GuestRam;
use crate::rewrite::Sites;
use crate::sources::{OutsideWorld, Recorder, ReplayCounters, Replayer, Verification};
use crate::traps::TscTrap;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The vector of the guest's timer.
const TIMER: u8 = 0x20;
/// Counted instructions of the guest's timer handler, roughly. With stops farther apart than that,
/// most come where the guest can take an interrupt.
pub const HANDLER: u64 = 25;
/// Guest time that one look at the clock takes, in nanoseconds.
const LOOK: u64 = 1000;

/// By how many branches the counter of a trial stops the guest too late at most.
const SKID: u64 = 20;

/// What a trial counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Instructions: every place has a count.
    Instructions,
    /// Conditional branches, as a counter in hardware does, which stops the guest late. Only the
    /// counter is made up: what names and finds the places is what works with one in hardware.
    Branches,
}

/// How a trial is made.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// What is counted.
    pub counting: Counting,
    /// Interrupts to be delivered.
    pub interrupts: u64,
    /// What the random numbers follow from.
    pub seed: u64,
    /// Counted instructions between two interrupts: least and largest number.
    pub distance: (u64, u64),
}

/// What a trial without a difference has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Stops at a counted place.
    pub stops: u64,
    /// Timer interrupts that came right there.
    pub at_stops: u64,
    /// Those that waited for the guest to enable interrupts.
    pub at_windows: u64,
    /// Exits, counted stops among them.
    pub exits: u64,
    /// Register sets compared.
    pub registers: u64,
    /// Pages of memory compared.
    pub pages: u64,
    /// Exits at which the guest was as one that runs freely.
    pub unseen: u64,
}

impl Trial {
    /// Records and replays the guest. Then replays it with one place in the log moved by one, to
    /// see that a difference would be found.
    ///
    /// # Errors
    /// [`TrialError`], with the first difference if there is one.
    pub fn run(&self) -> Result<Seen, TrialError> {
        let unseen = unseen::compare()?;
        in_flight::check()?;
        let (entries, exits) = self.record()?;
        let entries: Rc<[Entry]> = entries.into();
        let counters = Arc::new(ReplayCounters::default());
        let replayed = self.replay(entries.clone(), counters.clone())?;
        replayed.map_err(TrialError::Replay)?;
        if self.replay(falsified(&entries), Arc::default())?.is_ok() {
            return Err(TrialError::Blind);
        }
        let count = |wanted: fn(&Payload) -> bool| {
            let logged = entries.iter().filter(|entry| wanted(&entry.payload));
            logged.count() as u64
        };
        let at_windows = count(|payload| *payload == Payload::Interrupt(TIMER));
        Ok(Seen {
            stops: count(|payload| matches!(payload, Payload::Counted(_))),
            at_stops: count(|payload| matches!(payload, Payload::Tick(_))) - at_windows,
            at_windows,
            exits,
            registers: counters.registers.load(Ordering::Relaxed),
            pages: counters.pages.load(Ordering::Relaxed),
            unseen,
        })
    }

    fn record(&self) -> Result<(Vec<Entry>, u64), TrialError> {
        let cpu = micro_guest(plan(self.seed, self.distance))?;
        let world = timer_only(self.interrupts);
        let log = MemoryLog::default();
        let verification = Verification::EveryExit;
        let memory = cpu.memory().clone();
        let recorder = Recorder::new(world, log.clone(), verification, memory.clone());
        let ended = self.run_guest(cpu, Box::new(recorder))?;
        let ended = ended.map_err(TrialError::Recording)?;
        self.check(guest::Counts::read(&memory))?;
        Ok((log.take(), ended.exits))
    }
}

impl Trial {
    fn replay(
        &self,
        entries: Rc<[Entry]>,
        counters: Arc<ReplayCounters>,
    ) -> Result<Result<Ended, EngineError>, TrialError> {
        let cpu = micro_guest(StopPlan::Never)?;
        let replayer = Replayer::new(Playback::of(entries), cpu.memory().clone(), counters);
        self.run_guest(cpu, Box::new(replayer))
    }

    fn run_guest(
        &self,
        cpu: SteppedCpu,
        source: Box<dyn EventSource>,
    ) -> Result<Result<Ended, EngineError>, TrialError> {
        let memory = cpu.memory().clone();
        Ok(match self.counting {
            Counting::Instructions => engine(cpu, &memory, source).run(),
            Counting::Branches => {
                let counter = TallyCounter::new(cpu.tally(), SKID, SKID, self.seed);
                let mut cpu = CountingCpu::new(cpu);
                cpu.count_with(Ok(counter));
                engine(cpu, &memory, source).run()
            }
        })
    }

    /// Checks that the guest was where it should be: the last interrupt may not have come yet.
    fn check(&self, counts: guest::Counts) -> Result<(), TrialError> {
        let guest::Counts {
            ticks,
            page_faults,
            undefined,
        } = counts;
        let interrupts = self.interrupts;
        // In a trial of a few interrupts the guest does not get far.
        let busy = interrupts < 100 || page_faults > 0 && undefined > 0;
        if ticks <= interrupts && ticks + 1 >= interrupts && busy {
            return Ok(());
        }
        Err(TrialError::Lost {
            interrupts,
            ticks,
            page_faults,
            undefined,
        })
    }
}

fn plan(seed: u64, (least, most): (u64, u64)) -> StopPlan {
    StopPlan::Random {
        dice: Dice(seed),
        least,
        most,
    }
}

fn timer_only(interrupts: u64) -> TimerOnly {
    TimerOnly {
        now: Cell::new(0),
        due: Cell::new(false),
        left: Cell::new(interrupts),
    }
}

fn engine<C: GuestCpu>(cpu: C, memory: &GuestRam, source: Box<dyn EventSource>) -> Engine<C> {
    let role = Role {
        source,
        gate: Box::new(Nowhere),
    };
    let traps = TscTrap::new(&Sites::default(), memory.clone());
    Engine::new(cpu, Devices::new(memory, MAC), traps, role)
}

/// The log with the middle one of its counted stops moved by one.
fn falsified(entries: &[Entry]) -> Rc<[Entry]> {
    let mut entries = entries.to_vec();
    let mut stops: Vec<_> = entries
        .iter_mut()
        .filter_map(|entry| match &mut entry.payload {
            Payload::Counted(stop) => Some(stop),
            _ => None,
        })
        .collect();
    let middle = stops.len() / 2;
    if let Some(stop) = stops.get_mut(middle) {
        stop.count += 1;
    }
    entries.into()
}

/// A world in which the timer is due at every counted stop, and nowhere else.
struct TimerOnly {
    now: Cell<u64>,
    due: Cell<bool>,
    left: Cell<u64>,
}

impl OutsideWorld for TimerOnly {
    fn clock(&self, _: ClockNeed) -> u64 {
        self.now.set(self.now.get() + LOOK);
        self.now.get()
    }

    fn poll(&self, appetite: &Appetite) -> Step<Option<Input>> {
        let Some(deadline) = appetite.timer_deadline.filter(|_| self.due.take()) else {
            return Ok(None);
        };
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(Interruption::Stop);
        };
        self.left.set(left);
        self.now.set(deadline.max(self.now.get()));
        Ok(Some(Input::Tick(self.now.get())))
    }

    fn is_ready(&self, appetite: &Appetite) -> bool {
        self.due.set(appetite.timer_deadline.is_some());
        self.due.get()
    }

    fn wait(&self, _: &Appetite) -> Step<Input> {
        Err(Interruption::Failed("the micro-guest never halts".into()))
    }
}

/// The micro-guest makes no outputs.
struct Nowhere;

impl OutputGate for Nowhere {
    fn submit(&mut self, _: Output, _: Option<Lsn>) {}
}
