//! Trials with a counter that has a fault: it is noticed, and the guest goes on.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use logging_channel::entry::{Entry, Lsn, Payload, StatePart};
use logging_channel::memory::TakeBlocks as _;

use super::guest::micro_guest;
use super::log::{MemoryLog, Playback};
use super::{TrialError, engine, plan, timer_only};
use crate::counter::{CountingCpu, Fault, Faulty, TallyCounter};
use crate::cpu::CpuState;
use crate::engine::{Divergence, EngineError, EventSource, Interruption, Step};
use crate::kvm::stepped::StopPlan;
use crate::ram::GuestRam;
use crate::sources::{
    Head, LogSink, LogSource, Pace, Recorder, ReplayCounters, Replayer, StateFollower, StateKeeper,
    TransferPace, Verification,
};
use crate::state::{Baseline, KeptBlocks, MemoryTaker, SendBlocks};

/// By how many branches the counter stops the guest too late at most, where it has no fault: fewer than
/// there are between most stops.
const SKID: u64 = 2;

/// After so many stops the whole state is sent, as to a backup that asked for it.
const STOPS: usize = 10;

/// Stops far enough apart for a counter to be late, and ticks that make a transfer due soon: each is ten
/// milliseconds of guest time.
const DISTANCE: (u64, u64) = (60, 200);
const INTERRUPTS: u64 = 30;
const PACE: Pace = Pace {
    latency: Duration::from_millis(50),
    digest_interval: Duration::from_millis(200),
    digest_slice: Duration::from_millis(20),
    transfer: TransferPace::DEFAULT,
    longest_stop: Duration::from_millis(100),
};

/// On which of the two hosts a counter has its fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// On the one that records.
    Recorder,
    /// On the one that replays.
    Replayer,
}

/// What became of a counter with a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survived {
    /// What was wrong.
    pub fault: Fault,
    /// Where.
    pub at: At,
    /// How it was named.
    pub told: String,
}

/// Records and replays the guest with one fault after another. Each is noticed, and both guests get to
/// the same end: all registers at every exit are compared, and all of memory.
///
/// # Errors
/// [`TrialError`].
pub fn survive(seed: u64) -> Result<Vec<Survived>, TrialError> {
    let faults = [
        (Fault::Overruns(1), At::Replayer),
        (Fault::LosesCounts(10), At::Replayer),
        (Fault::CountsHost(10), At::Replayer),
        (Fault::Disappears(30), At::Replayer),
        (Fault::Disappears(0), At::Replayer),
        (Fault::LosesCounts(10), At::Recorder),
        (Fault::CountsHost(10), At::Recorder),
        (Fault::Disappears(30), At::Recorder),
        (Fault::Disappears(0), At::Recorder),
    ];
    faults
        .into_iter()
        .map(|(fault, at)| {
            let told = one(fault, at, seed)?;
            Ok(Survived { fault, at, told })
        })
        .collect()
}

fn one(fault: Fault, at: At, seed: u64) -> Result<String, TrialError> {
    let (here, there) = match at {
        At::Recorder => (fault, Fault::None),
        At::Replayer => (Fault::None, fault),
    };
    let told = Rc::new(RefCell::new(Vec::new()));
    let memory_sent = KeptBlocks::default();
    let log = CutLog {
        log: MemoryLog::default(),
        memory: memory_sent.clone(),
        stops: 0,
        is_replay_sound: at == At::Recorder,
    };
    let entries = log.log.clone();
    let stops = plan(seed, DISTANCE);
    let recorded = run(stops, here, seed, &told, |memory, baseline| {
        let world = timer_only(INTERRUPTS);
        let recorder = Recorder::new(world, log, Verification::EveryExit, memory.clone());
        let keeper = StateKeeper::new(baseline, PACE, Arc::default());
        Box::new(recorder.with_keeper(keeper))
    })?;
    recorded.map_err(TrialError::Recording)?;
    if at == At::Replayer {
        // What the recorder was told of the other counter is not what is looked for.
        told.borrow_mut().clear();
    }

    let replayed = run(StopPlan::Never, there, seed, &told, |memory, baseline| {
        let counters = Arc::new(ReplayCounters::default());
        let follower = StateFollower::new(baseline, Arc::default());
        let log = Repairing {
            log: Playback::of(entries.take().into()),
            memory: memory_sent,
            taker: follower.memory_taker(),
            told: told.clone(),
        };
        Box::new(Replayer::new(log, memory.clone(), counters).with_state(follower))
    })?;
    replayed.map_err(TrialError::Replay)?;
    let told = told.borrow();
    told.first().cloned().ok_or(TrialError::Unnoticed(fault))
}

fn run(
    stops: StopPlan,
    fault: Fault,
    seed: u64,
    told: &Rc<RefCell<Vec<String>>>,
    source: impl FnOnce(&GuestRam, Baseline) -> Box<dyn EventSource>,
) -> Result<Result<(), EngineError>, TrialError> {
    let mut cpu = micro_guest(stops)?;
    let memory = cpu.memory().clone();
    cpu.track_writes()?;
    let baseline = Baseline::new(memory.clone())?;
    let counter = TallyCounter::new(cpu.tally(), SKID, SKID, seed);
    let mut cpu = CountingCpu::new(cpu);
    let lost = told.clone();
    cpu.tell_loss(move |reason| lost.borrow_mut().push(reason.to_owned()));
    cpu.count_with(Ok(Faulty::new(counter, fault, seed)));
    let ended = engine(cpu, &memory, source(&memory, baseline)).run();
    Ok(ended.map(|_| ()))
}

/// A log whose replay asks for the whole state once, and finds no counts from then on if its counter is
/// not sound.
struct CutLog {
    log: MemoryLog,
    memory: KeptBlocks,
    stops: usize,
    is_replay_sound: bool,
}

impl LogSink for CutLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let is_stop = matches!(
            entry.payload,
            Payload::Counted(_) | Payload::State(StatePart::Commit(_))
        );
        if is_stop && self.stops < STOPS {
            self.stops += 1;
        }
        self.log.append(entry)
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        if self.stops != STOPS {
            return None;
        }
        self.stops += 1;
        Some(Lsn(1))
    }

    fn takes_counts(&self) -> bool {
        self.is_replay_sound || self.stops <= STOPS
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        vec![Box::new(self.memory.clone())]
    }
}

/// In which a replay that differs finds the whole state.
struct Repairing {
    log: Playback,
    memory: KeptBlocks,
    taker: Arc<MemoryTaker>,
    told: Rc<RefCell<Vec<String>>>,
}

impl LogSource for Repairing {
    fn head(&mut self) -> Step<Head<'_>> {
        self.log.head()
    }

    fn advance(&mut self) {
        if let Ok(Head::Entry(_, entry)) = self.log.head()
            && let Payload::State(StatePart::Begin(transfer)) = entry.payload
        {
            for block in self.memory.take() {
                if let Err(reason) = self.taker.take(transfer, &block) {
                    self.taker.ended(reason);
                }
            }
        }
        self.log.advance();
    }

    fn after_end(&mut self) -> Interruption {
        self.log.after_end()
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        self.told.borrow_mut().push(divergence.to_string());
        true
    }
}
