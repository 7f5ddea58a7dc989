//! Live inputs that are logged as they are given to the guest.

use std::time::Duration;

use logging_channel::codec::MAX_FRAME;
use logging_channel::entry::{
    DiskOutcome, Entry, ExecutionPoint, Lsn, OutputMarker, Payload, ShutdownReason, page_hash,
};

use super::Watchdog;
use super::keeper::StateKeeper;
use super::live::{LiveInputs, OutsideWorld};
use super::log_sink::LogSink;
use crate::cpu::Counted;
use crate::devices::{Appetite, ClockNeed, Input};
use crate::disk::{DiskCompletion, DiskError, ReadWatch};
use crate::engine::{EventSource, Moment, Step, Waited};
use crate::ram::{self, GuestRam};

/// Guest time after which a progress mark is logged when nothing else was, so that a replay is
/// never far behind in work, even if it is not behind in entries.
const PROGRESS_NANOS: u64 = 50_000_000;

/// Guest time after which a guest that makes no exit is stopped though no input waits for it, so that
/// its replay knows that it still gets on ([`super::overdue`]).
const MOST_SILENCE: u64 = 1_000_000_000;

/// Hashes in one entry: 256 KiB of guest memory per KiB of log.
const HASHES_PER_ENTRY: u64 = 4096;

/// How much a recording lets its replay compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verification {
    /// Register digests at inputs, outputs and interrupt windows.
    #[default]
    Digests,
    /// All registers at every exit, and all of guest memory at the end.
    EveryExit,
}

/// Live inputs, logged.
pub struct Recorder<L, W = LiveInputs> {
    live: W,
    log: L,
    verification: Verification,
    memory: GuestRam,
    /// Guest time of the last entry.
    last_entry: u64,
    keeper: Option<StateKeeper>,
    watchdog: Option<Watchdog>,
    shared_reads: Option<SharedReads>,
    waits_for_protection: bool,
}

/// Reads of the disk that a replay does itself.
struct SharedReads {
    watch: Box<dyn ReadWatch>,
    /// The last request that was made before the replay began: what is said of it may be what was said
    /// for the one before.
    before: u64,
}

fn guest_time(world: &impl OutsideWorld) -> impl Fn() -> Duration {
    move || Duration::from_nanos(world.clock(ClockNeed::Monotonic))
}

impl<L: LogSink, W: OutsideWorld> Recorder<L, W> {
    /// Logs `live` to `log`.
    #[must_use]
    pub fn new(live: W, log: L, verification: Verification, memory: GuestRam) -> Self {
        Self {
            live,
            log,
            verification,
            memory,
            last_entry: 0,
            keeper: None,
            watchdog: None,
            shared_reads: None,
            waits_for_protection: false,
        }
    }

    /// Takes state deltas and digests as `keeper` says. Without one, a guest that makes no exits
    /// gets its inputs only if nobody replays the log or its processor has a counter.
    #[must_use]
    pub fn with_keeper(mut self, keeper: StateKeeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// Stops a guest that makes no exits for the time that `watchdog` is set to.
    #[must_use]
    pub fn with_watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = Some(watchdog);
        self
    }

    /// Keeps the guest from its first instruction until a replay protects it.
    #[must_use]
    pub fn waiting_for_protection(mut self) -> Self {
        self.waits_for_protection = true;
        self
    }

    /// Leaves what the guest read from its disk to the replay, where the disk holds it for that: `watch`
    /// hears of each such read.
    #[must_use]
    pub fn with_shared_reads(mut self, watch: Box<dyn ReadWatch>) -> Self {
        let before = 0;
        self.shared_reads = Some(SharedReads { watch, before });
        self
    }

    fn append(&mut self, at: &mut Moment<'_>, checked: bool, payload: Payload) -> Step<Lsn> {
        let check = if checked && self.log.is_replayed() {
            Some(at.digest()?)
        } else {
            None
        };
        self.log.append(Entry {
            point: at.point,
            check,
            payload,
        })
    }

    fn append_memory_hashes(&mut self, point: ExecutionPoint) -> Step<()> {
        let pages = ram::page_count(&self.memory);
        for first_page in (0..pages).step_by(HASHES_PER_ENTRY as usize) {
            let hashes = (first_page..pages.min(first_page + HASHES_PER_ENTRY))
                .map(|page| page_hash(&ram::page(&self.memory, page)))
                .collect();
            self.log.append(Entry {
                point,
                check: None,
                payload: Payload::MemoryHashes { first_page, hashes },
            })?;
        }
        Ok(())
    }

    fn log_input(&mut self, at: &mut Moment<'_>, input: Input) -> Step<Input> {
        if self.log.is_replayed() {
            let payload = match &input {
                Input::Tick(now) => {
                    self.last_entry = *now;
                    Payload::Tick(*now)
                }
                Input::Frame(frame) => Payload::NetRx(frame.to_log()),
                Input::Typed(bytes) => Payload::ConsoleInput(bytes.clone()),
                Input::Disk(completion) => {
                    self.log_completion(at, completion)?;
                    return Ok(input);
                }
            };
            self.append(at, true, payload)?;
        }
        Ok(input)
    }

    /// Logs a completion: what was read, in parts, or its checksum; then how it went.
    fn log_completion(&mut self, at: &mut Moment<'_>, completion: &DiskCompletion) -> Step<()> {
        let id = completion.id;
        let shared = self.shared_reads.as_ref();
        let is_shared = completion.held && shared.is_some_and(|reads| id > reads.before);
        let outcome = match &completion.result {
            Err(DiskError::Io) => DiskOutcome::Failed,
            Err(DiskError::Unsupported) => DiskOutcome::Unsupported,
            Ok(data) if is_shared => DiskOutcome::Shared {
                crc: crc32fast::hash(data),
            },
            Ok(data) => {
                for part in data.chunks(MAX_FRAME) {
                    self.append(at, false, Payload::DiskData(part.to_vec()))?;
                }
                DiskOutcome::Done
            }
        };
        let lsn = self.append(at, true, Payload::DiskDone { id, outcome })?;
        if let (true, Some(reads)) = (completion.held, &mut self.shared_reads) {
            reads.watch.completed(id, is_shared.then_some(lsn));
        }
        Ok(())
    }

    /// Deals with a replay that begins, and with one that has taken over the state with which it began:
    /// whether one has just now.
    fn look_for_replay(&mut self, at: &mut Moment<'_>) -> Step<bool> {
        let Some(keeper) = &mut self.keeper else {
            return Ok(false);
        };
        if self.log.begins() {
            if let Some(reads) = &mut self.shared_reads {
                reads.before = at.devices.last_request();
            }
            keeper.join(at, &guest_time(&self.live), &mut self.log)?;
        }
        let protects = self.log.protects();
        if protects {
            self.waits_for_protection = false;
            let payload = Payload::Protected {
                clock: self.live.clock(ClockNeed::Monotonic),
                wall_clock: self.live.clock(ClockNeed::Wall),
            };
            self.append(at, true, payload)?;
            self.log.flush();
        }
        Ok(protects)
    }

    /// The guest stands still: goes on with what a replay that begins needs of it. The exit at which the
    /// replay gets it, which the place becomes, once everything was sent.
    fn use_idle_time(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        let Some(keeper) = &mut self.keeper else {
            return Ok(None);
        };
        if !self.log.is_replayed() {
            return Ok(None);
        }
        let clock = guest_time(&self.live);
        if let Some(lsn) = self.log.state_wanted() {
            keeper.repair(lsn, clock(), &mut self.log);
        }
        if self.log.renewal_wanted() {
            keeper.renew(at, &clock, &mut self.log)?;
        }
        let sent = keeper.use_idle_time(at, &clock, &mut self.log)?;
        Ok(sent.then_some(at.point.exits + 1))
    }

    /// Keeps the guest from its first instruction until a replay protects it. The exit at which the replay
    /// gets the guest.
    fn wait_for_protection(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        while self.waits_for_protection {
            if self.look_for_replay(at)? {
                break;
            }
            let nothing = Appetite::default();
            if let Some(exits) = self.use_idle_time(at)? {
                return Ok(Some(exits));
            }
            self.live.wait_or_look(&nothing)?;
        }
        Ok(None)
    }

    /// What is due at an exit beside inputs.
    fn keep_up(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.look_for_replay(at)?;
        if !self.log.is_replayed() {
            if let Some(keeper) = &mut self.keeper {
                keeper.give_up();
            }
            return Ok(());
        }
        let now = self.live.clock(ClockNeed::Monotonic);
        if let Some(keeper) = &mut self.keeper {
            let now = Duration::from_nanos(now);
            if let Some(lsn) = self.log.state_wanted() {
                keeper.repair(lsn, now, &mut self.log);
            }
            if self.log.renewal_wanted() {
                keeper.renew(at, &guest_time(&self.live), &mut self.log)?;
            }
            keeper.keep_up(at, now, &guest_time(&self.live), &mut self.log)?;
        }
        let hands_over = self.log.hands_over();
        if hands_over || now.saturating_sub(self.last_entry) > PROGRESS_NANOS {
            self.last_entry = now;
            self.append(at, true, Payload::Progress)?;
        }
        if hands_over {
            self.log.hand_over()?;
        }
        Ok(())
    }

    /// Whether the log should have an entry by now. Where the guest is stopped for that, a progress
    /// mark follows.
    fn is_silent(&self) -> bool {
        let since = || {
            self.live
                .clock(ClockNeed::Monotonic)
                .saturating_sub(self.last_entry)
        };
        self.log.is_replayed() && since() >= MOST_SILENCE
    }

    fn stopped(&mut self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.leave();
        }
    }

    /// Names the place where the guest was stopped in the log. `false` if it has no name.
    fn name_stop(&mut self, at: &mut Moment<'_>) -> Step<bool> {
        if !self.log.is_replayed() {
            return Ok(true);
        }
        if !self.log.takes_counts() {
            at.cpu
                .stop_counting("the other host has none that can be used");
        }
        let point = ExecutionPoint::at_exit(at.point.exits + 1);
        match at.cpu.counted_stop()? {
            Counted::At(stop) => {
                self.log.append(Entry {
                    point,
                    check: None,
                    payload: Payload::Counted(Box::new(stop)),
                })?;
                return Ok(true);
            }
            // The guest runs into it at once.
            Counted::Exit => return Ok(false),
            Counted::Unnamed => {}
        }
        let Some(keeper) = &mut self.keeper else {
            return Ok(false);
        };
        keeper.delta(at, &mut self.log)
    }
}

impl<L: LogSink, W: OutsideWorld> EventSource for Recorder<L, W> {
    fn depart(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        if at.point.exits == 0 {
            // Before anything that a replay could have to go on with.
            self.look_for_replay(at)?;
        }
        if let Some(exits) = self.wait_for_protection(at)? {
            return Ok(Some(exits));
        }
        if let Some(keeper) = &mut self.keeper
            && self.log.is_replayed()
            && keeper.departs(at, &guest_time(&self.live), &mut self.log)?
        {
            return Ok(Some(at.point.exits + 1));
        }
        if let Some(watchdog) = &self.watchdog {
            if let Some(keeper) = &mut self.keeper
                && let Some(next) = keeper.next_stop()
            {
                watchdog.set_interval(next.interval, next.pause);
            }
            watchdog.enter();
        }
        Ok(None)
    }

    fn kicked(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<bool> {
        self.stopped();
        self.log.throttle();
        let is_wanted = self.live.is_ready(appetite) || self.is_silent() || self.log.hands_over();
        if is_wanted && self.name_stop(at)? {
            return Ok(true);
        }
        if let Some(keeper) = &mut self.keeper {
            if self.log.is_replayed() {
                keeper.kicked(at, &guest_time(&self.live), &mut self.log)?;
            } else {
                keeper.give_up();
            }
        }
        Ok(false)
    }

    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.stopped();
        if let Some(keeper) = &mut self.keeper {
            keeper.at_exit();
        }
        self.log.throttle();
        if self.verification == Verification::EveryExit {
            let registers = Box::new(at.registers()?);
            self.append(at, false, Payload::Registers(registers))?;
        }
        Ok(())
    }

    fn clock(&mut self, at: &mut Moment<'_>, need: ClockNeed) -> Step<u64> {
        let value = self.live.clock(need);
        let payload = match need {
            ClockNeed::Tsc => Payload::Tsc(value),
            ClockNeed::Monotonic => Payload::Clock(value),
            ClockNeed::Wall => Payload::WallClock(value),
        };
        self.append(at, false, payload)?;
        Ok(value)
    }

    fn poll(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>> {
        if let Some(input) = self.live.poll(appetite)? {
            return self.log_input(at, input).map(Some);
        }
        self.keep_up(at)?;
        Ok(None)
    }

    fn wait(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Waited> {
        loop {
            self.look_for_replay(at)?;
            if let Some(exits) = self.use_idle_time(at)? {
                return Ok(Waited::Arrived(exits));
            }
            if self.log.hands_over() {
                self.log.hand_over()?;
            }
            if let Some(input) = self.live.wait_or_look(appetite)? {
                return self.log_input(at, input).map(Waited::Input);
            }
        }
    }

    fn window(&mut self, at: &mut Moment<'_>, vector: Option<u8>) -> Step<()> {
        self.stopped();
        self.append(
            at,
            true,
            vector.map_or(Payload::Progress, Payload::Interrupt),
        )?;
        Ok(())
    }

    fn output(&mut self, at: &mut Moment<'_>, marker: OutputMarker) -> Step<Lsn> {
        let lsn = self.append(at, true, Payload::Output(marker))?;
        self.log.flush();
        Ok(lsn)
    }

    fn wants_markers(&self) -> bool {
        self.log.is_kept()
    }

    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()> {
        if self.log.is_replayed()
            && let Some(keeper) = &mut self.keeper
        {
            keeper.last_digest(at, &mut self.log)?;
        }
        let point = ExecutionPoint::at_exit(at.point.exits);
        let check = if self.log.is_replayed() {
            Some(at.digest()?)
        } else {
            None
        };
        self.log.append(Entry {
            point,
            check,
            payload: Payload::Shutdown(reason),
        })?;
        if self.verification == Verification::EveryExit {
            self.append_memory_hashes(point)?;
        }
        self.log.flush();
        self.log.finish()
    }
}
