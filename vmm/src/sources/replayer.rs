//! Inputs from a log, with every difference reported.

mod entries;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use logging_channel::entry::{Lsn, OutputMarker, Payload, ShutdownReason, StatePart};

use super::completion::Completions;
use super::follower::{StateFollower, different_registers};
use super::log_source::{Head, LogSource, ReplayCounters};
use super::overdue::Overdue;
use super::place::EntryPlace;
use super::watchdog::Watchdog;
use crate::cpu::SeekError;
use crate::devices::{Appetite, ClockNeed, Input};
use crate::disk::SharedDisk;
use crate::engine::source::describe;
use crate::engine::{Difference, Divergence, EventSource, Interruption, Moment, Step, Waited};
use crate::ram::GuestRam;

/// Replays a log.
pub struct Replayer<S> {
    log: S,
    memory: GuestRam,
    counters: Arc<ReplayCounters>,
    state: Option<StateFollower>,
    completions: Completions,
    overdue: Overdue,
    /// No entry was used yet.
    is_new: bool,
}

/// Which transfer of the whole state is to be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// One in the place of the guest's execution.
    InPlace,
    /// A renewal, with which a log begins of which the part before is gone.
    Renewal,
}

impl Whole {
    /// The part of it that an entry is.
    fn part(self, payload: &Payload) -> Option<&StatePart> {
        match (self, payload) {
            (Self::InPlace, Payload::State(part)) | (Self::Renewal, Payload::Renewal(part)) => {
                Some(part)
            }
            _ => None,
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<S: LogSource> Replayer<S> {
    /// Replays `log`; `memory` is compared where the log has hashes of it.
    #[must_use]
    pub fn new(log: S, memory: GuestRam, counters: Arc<ReplayCounters>) -> Self {
        Self {
            log,
            memory,
            counters,
            state: None,
            completions: Completions::default(),
            overdue: Overdue::default(),
            is_new: true,
        }
    }

    /// Takes over the states that the log has, and compares its digests.
    #[must_use]
    pub fn with_state(mut self, state: StateFollower) -> Self {
        self.state = Some(state);
        self
    }

    /// Reads what the log leaves to the backup from `disk`.
    #[must_use]
    pub fn with_shared_disk(mut self, disk: Box<dyn SharedDisk>) -> Self {
        self.completions.shared = Some(disk);
        self
    }

    /// Notices a guest that does not come to its next exit. The watchdog is set to
    /// [`REPLAY_WATCH`](super::REPLAY_WATCH).
    #[must_use]
    pub fn with_watchdog(mut self, watchdog: Watchdog) -> Self {
        self.overdue.watchdog = Some(watchdog);
        self
    }

    /// How long the guest may run without an exit while the log has a later one, as the watchdog
    /// finds.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.overdue.patience = patience;
        self
    }

    /// Takes pages of a delta over that come next in the log: they are sent at any stop of the guest.
    fn take_pages(&mut self, at: &mut Moment<'_>) -> Step<()> {
        while let Some(state) = &mut self.state
            && let Head::Entry(lsn, entry) = self.log.head()?
            && entry.point.exits == at.point.exits
            && let Payload::State(part @ StatePart::Pages(_)) = &entry.payload
        {
            state.take(at, entry.point, part).map_err(|error| {
                let difference = Difference::Transfer(error.to_string());
                Interruption::diverged(at.point, lsn, difference)
            })?;
            self.advance();
        }
        Ok(())
    }

    fn after_end(&mut self) -> Interruption {
        if let Some(state) = self.state.take() {
            self.log.keep_state(state);
        }
        self.log.after_end()
    }

    fn advance(&mut self) {
        self.is_new = false;
        count(&self.counters.entries);
        self.log.advance();
    }

    /// Takes a transfer of the whole state over; everything else in the log up to its end is of
    /// no use. Returns the exit at which the guest stands then, or `None` if the log ends first.
    fn take_whole(&mut self, at: &mut Moment<'_>, mut whole: Whole) -> Step<Option<u64>> {
        let Some(state) = &mut self.state else {
            return Ok(None);
        };
        let mut begun = false;
        loop {
            let complete = match self.log.head()? {
                Head::Ended => return Ok(None),
                Head::Entry(lsn, entry) => match whole.part(&entry.payload) {
                    _ if matches!(entry.payload, Payload::Shutdown(_)) => return Ok(None),
                    Some(part) if begun || matches!(part, StatePart::Begin(_)) => {
                        begun = true;
                        self.completions.forget();
                        let exits = entry.point.exits;
                        match state.take(at, entry.point, part) {
                            Ok(complete) => complete.then_some(exits),
                            Err(error) => {
                                // Another one may be better.
                                let divergence = Divergence {
                                    point: at.point,
                                    lsn,
                                    difference: Difference::Transfer(error.to_string()),
                                };
                                begun = false;
                                whole = Whole::InPlace;
                                state.abandon();
                                if !self.log.differs(&divergence) {
                                    return Err(Interruption::Diverged(Box::new(divergence)));
                                }
                                None
                            }
                        }
                    }
                    _ => None,
                },
            };
            self.is_new = false;
            self.log.advance();
            if complete.is_some() {
                self.log.is_repaired();
                return Ok(complete);
            }
        }
    }

    /// The state transfer, or stop, that comes before the next exit, if one does.
    fn transferred(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        const DOING: &str = "running on";
        loop {
            let next = at.point.exits + 1;
            self.pass_marks(at, &DOING)?;
            if matches!(self.log.head()?, Head::Ended) {
                return Err(self.after_end());
            }
            let Head::Entry(lsn, entry) = self.log.head()? else {
                return Err(Interruption::Failed("the log's head vanished".into()));
            };
            let whole = match &entry.payload {
                Payload::State(StatePart::Begin(_)) => Some(Whole::InPlace),
                Payload::Renewal(StatePart::Begin(_)) if self.is_new => Some(Whole::Renewal),
                _ => None,
            };
            if let (Some(whole), Some(_)) = (whole, &self.state) {
                // Its memory is the transfer's from here on, and no guest's before the end of that.
                let cut = Divergence {
                    point: at.point,
                    lsn,
                    difference: Difference::Transfer(
                        "the log ends within a transfer of the whole state".into(),
                    ),
                };
                let taken = self.take_whole(at, whole)?;
                return taken
                    .map(Some)
                    .ok_or_else(|| Interruption::Diverged(Box::new(cut)));
            }
            let point = at.point;
            let failed = |difference| Interruption::diverged(point, lsn, difference);
            let is_part = entry.point.exits == next && matches!(entry.payload, Payload::State(_));
            if !is_part && self.state.as_ref().is_some_and(StateFollower::is_midway) {
                return Err(failed(Difference::Transfer("its end is missing".into())));
            }
            if entry.point.exits != next {
                return Ok(None);
            }
            match (&entry.payload, &mut self.state) {
                (Payload::Counted(stop), _) => {
                    at.cpu.seek(stop).map_err(|error| match error {
                        SeekError::Cpu(error) => Interruption::Cpu(error),
                        SeekError::NoCounter => Interruption::Failed(error.to_string()),
                        SeekError::Lost(reason) => failed(Difference::CounterLost(reason)),
                        SeekError::Overrun(reason) => failed(Difference::Overrun(reason)),
                        SeekError::Missed(reason) => failed(Difference::Seek(reason)),
                    })?;
                    self.advance();
                    return Ok(Some(next));
                }
                (Payload::State(part), Some(state)) => {
                    let exits = entry.point.exits;
                    let complete = state
                        .take(at, entry.point, part)
                        .map_err(|error| failed(Difference::Transfer(error.to_string())))?;
                    self.advance();
                    if complete {
                        return Ok(Some(exits));
                    }
                }
                (Payload::Renewal(part), Some(state)) => {
                    let is_end = matches!(part, StatePart::Commit(_));
                    if is_end {
                        state
                            .pass_renewal(at)
                            .map_err(|error| failed(Difference::Transfer(error.to_string())))?;
                    }
                    self.advance();
                    if is_end {
                        return Ok(Some(next));
                    }
                }
                (Payload::State(_) | Payload::Renewal(_), None) => {
                    return Err(Interruption::Failed(
                        "the log has state transfers, and this replay takes none".into(),
                    ));
                }
                _ => return Ok(None),
            }
        }
    }
}

impl<S: LogSource> EventSource for Replayer<S> {
    fn depart(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        if let Some(exits) = self.transferred(at)? {
            return Ok(Some(exits));
        }
        self.overdue.departs(at.point.exits);
        Ok(None)
    }

    fn kicked(&mut self, at: &mut Moment<'_>, _: &Appetite) -> Step<bool> {
        if !self.overdue.is_bitten() {
            return Ok(false);
        }
        match self.log.head()? {
            Head::Ended => Ok(false),
            Head::Entry(lsn, entry) => Err(Interruption::diverged(
                at.point,
                lsn,
                Difference::Overdue {
                    logged: format!("{} at {}", describe(&entry.payload), entry.point),
                },
            )),
        }
    }

    fn recover(&mut self, at: &mut Moment<'_>, trouble: Interruption) -> Step<u64> {
        if self.state.is_none() {
            return Err(trouble);
        }
        let divergence = match trouble {
            Interruption::Diverged(divergence) => divergence,
            Interruption::Cpu(error) => Box::new(Divergence {
                point: at.point,
                lsn: match self.log.head()? {
                    Head::Entry(lsn, _) => lsn,
                    Head::Ended => Lsn::default(),
                },
                difference: Difference::Processor(error.to_string()),
            }),
            other => return Err(other),
        };
        if !self.log.differs(&divergence) {
            return Err(Interruption::Diverged(divergence));
        }
        match self.take_whole(at, Whole::InPlace)? {
            Some(exits) => Ok(exits),
            None => Err(Interruption::Diverged(divergence)),
        }
    }

    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.counters.exits.store(at.point.exits, Ordering::Relaxed);
        self.overdue.stops();
        let (lsn, logged) = match self.head(at, &"an exit")? {
            (lsn, EntryPlace::Here, Payload::Registers(logged)) => (lsn, **logged),
            _ => return Ok(()),
        };
        let replayed = at.registers()?;
        count(&self.counters.registers);
        if let Some((name, logged, replayed)) = different_registers(&logged, &replayed).next() {
            let difference = Difference::Register {
                name,
                logged,
                replayed,
            };
            return Err(Interruption::diverged(at.point, lsn, difference));
        }
        self.advance();
        Ok(())
    }

    fn clock(&mut self, at: &mut Moment<'_>, need: ClockNeed) -> Step<u64> {
        let doing = match need {
            ClockNeed::Tsc => "a time stamp counter read",
            ClockNeed::Monotonic => "a clock read",
            ClockNeed::Wall => "a wall clock read",
        };
        let (_, value) = self.expect(at, &doing, |payload| match (need, payload) {
            (ClockNeed::Tsc, Payload::Tsc(v))
            | (ClockNeed::Monotonic, Payload::Clock(v))
            | (ClockNeed::Wall, Payload::WallClock(v)) => Some(*v),
            _ => None,
        })?;
        Ok(value)
    }

    fn poll(&mut self, at: &mut Moment<'_>, _: &Appetite) -> Step<Option<Input>> {
        const DOING: &str = "the end of an exit";
        self.pass_marks(at, &DOING)?;
        match self.head(at, &DOING)? {
            (_, EntryPlace::Later, _) => Ok(None),
            (_, EntryPlace::Here, Payload::Shutdown(ShutdownReason::Stopped)) => {
                Err(Interruption::Stop)
            }
            // The guest is about to end by itself: the engine sees that next.
            (_, EntryPlace::Here, Payload::Shutdown(_)) => Ok(None),
            // It has slept, and the engine asks next how long.
            (_, EntryPlace::Here, Payload::Tsc(_)) => Ok(None),
            (_, EntryPlace::Here, _) => self.input(at, &DOING).map(Some),
        }
    }

    fn wait(&mut self, at: &mut Moment<'_>, _: &Appetite) -> Step<Waited> {
        const DOING: &str = "a halt";
        self.pass_marks(at, &DOING)?;
        match self.head(at, &DOING)? {
            (_, EntryPlace::Here, Payload::Shutdown(ShutdownReason::Stopped)) => {
                Err(Interruption::Stop)
            }
            _ => self.input(at, &DOING).map(Waited::Input),
        }
    }

    fn window(&mut self, at: &mut Moment<'_>, vector: Option<u8>) -> Step<()> {
        self.overdue.at_window();
        let doing = fmt::from_fn(|f| match vector {
            Some(vector) => f.write_str(&describe(&Payload::Interrupt(vector))),
            None => f.write_str("a window with nothing to deliver"),
        });
        match (self.head(at, &doing)?, vector) {
            ((_, EntryPlace::Here, Payload::Interrupt(logged)), Some(vector))
                if *logged == vector => {}
            ((_, EntryPlace::Here, Payload::Progress), None) => {}
            _ => return Err(self.unexpected(at, &doing)?),
        }
        self.advance();
        Ok(())
    }

    fn output(&mut self, at: &mut Moment<'_>, marker: OutputMarker) -> Step<Lsn> {
        let doing = fmt::from_fn(|f| f.write_str(&describe(&Payload::Output(marker))));
        let (lsn, ()) = self.expect(at, &doing, |payload| {
            matches!(payload, Payload::Output(logged) if *logged == marker).then_some(())
        })?;
        Ok(lsn)
    }

    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()> {
        let doing = fmt::from_fn(|f| f.write_str(&describe(&Payload::Shutdown(reason))));
        self.expect(at, &doing, |payload| {
            matches!(payload, Payload::Shutdown(logged) if *logged == reason).then_some(())
        })?;
        self.compare_memory(at.point)
    }
}
