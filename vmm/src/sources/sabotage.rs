//! Breaks a replay on purpose, so that tests can see that it is found.

use std::str::FromStr;
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, Lsn, OutputMarker, Payload, ShutdownReason};
use vm_memory::{Bytes, GuestAddress};

use super::log_source::{Head, LogSource};
use crate::devices::{Appetite, ClockNeed, Input};
use crate::engine::{Divergence, EventSource, Interruption, Moment, Step};
use crate::ram::GuestRam;

/// A byte below 640 KiB that Linux has no use for, so that only a digest can find it changed.
const VICTIM: GuestAddress = GuestAddress(0x9_f000);
/// Bytes in the log of a frame that are more than headers: 66 of Ethernet, IP and TCP, and up to 11
/// before them.
const WITH_DATA: usize = 90;
/// So far from a frame's end is the last letter of a request that ends with CR and LF.
const LAST_LETTER: usize = 3;
/// Time between two bits that are flipped.
const AGAIN: Duration = Duration::from_secs(1);
/// R14 in the order of [`logging_channel::entry::Registers::gpr`].
const R14: usize = 14;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A bit of guest memory, every second, until it is found: a state delta that comes at once
    /// takes the difference away, before anything came of it.
    Memory,
    /// A bit of a general register: at every exit, as a stuck bit, until it is found. Once may
    /// be without a consequence, if the guest has no use for the register there.
    Register,
    /// A bit of a log entry, as if its checksum had not shown it: of a request in a frame, every
    /// second, until it is found. (A guest may have no use for a time, or for the end of a line, and
    /// then nothing differs.)
    Entry,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            "register" => Ok(Self::Register),
            "entry" => Ok(Self::Entry),
            other => Err(format!("\"{other}\" is none of memory, register, entry")),
        }
    }
}

/// Breaks one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What.
    pub target: Target,
    /// When, from the start of the replay.
    pub after: Duration,
}

#[derive(Debug)]
struct Trigger {
    plan: Plan,
    started: Instant,
    done: bool,
}

impl Trigger {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            started: Instant::now(),
            done: false,
        }
    }

    fn is_due(&self) -> bool {
        !self.done && self.started.elapsed() >= self.plan.after
    }

    /// It is due again after this time.
    fn set(&mut self, after: Duration) {
        self.plan.after = after;
        self.started = Instant::now();
        self.done = false;
    }

    /// Whether it is time, once.
    fn pull(&mut self) -> bool {
        let due = self.is_due();
        if due {
            self.done = true;
            log::warn!("a bit is flipped on purpose: {:?}", self.plan.target);
        }
        due
    }
}

/// `source`, but for `plan`.
pub fn source(
    source: impl EventSource + 'static,
    memory: &GuestRam,
    plan: Option<Plan>,
) -> Box<dyn EventSource> {
    match plan {
        None => Box::new(source),
        Some(plan) => Box::new(Sabotage {
            source,
            memory: memory.clone(),
            trigger: Trigger::new(plan),
        }),
    }
}

/// A source that breaks memory or a register of the guest.
struct Sabotage<S> {
    source: S,
    memory: GuestRam,
    trigger: Trigger,
}

impl<S> Sabotage<S> {
    fn break_something(&mut self, at: &mut Moment<'_>) -> Step<()> {
        let target = self.trigger.plan.target;
        match target {
            Target::Memory if self.trigger.pull() => {
                self.trigger.set(AGAIN);
                // Set and not flipped: the second time must not take the first one back.
                let byte: u8 = self.memory.read_obj(VICTIM).unwrap_or_default();
                self.memory
                    .write_obj(byte | 0x10, VICTIM)
                    .map_err(|error| Interruption::Failed(error.to_string()))
            }
            Target::Register if self.trigger.is_due() => {
                let mut registers = at.registers()?;
                registers.gpr[R14] ^= 1 << 3;
                Ok(at.cpu.set_registers(&registers)?)
            }
            _ => Ok(()),
        }
    }
}

impl<S: EventSource> EventSource for Sabotage<S> {
    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.break_something(at)?;
        self.source.at_exit(at)
    }

    fn clock(&mut self, at: &mut Moment<'_>, need: ClockNeed) -> Step<u64> {
        self.source.clock(at, need)
    }

    fn poll(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>> {
        self.source.poll(at, appetite)
    }

    fn wait(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Input> {
        self.source.wait(at, appetite)
    }

    fn window(&mut self, at: &mut Moment<'_>, vector: Option<u8>) -> Step<()> {
        self.source.window(at, vector)
    }

    fn output(&mut self, at: &mut Moment<'_>, marker: OutputMarker) -> Step<Lsn> {
        self.source.output(at, marker)
    }

    fn depart(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        self.source.depart(at)
    }

    fn kicked(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<bool> {
        self.source.kicked(at, appetite)
    }

    fn recover(&mut self, at: &mut Moment<'_>, trouble: Interruption) -> Step<u64> {
        self.trigger.done = true;
        self.source.recover(at, trouble)
    }

    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()> {
        self.source.ended(at, reason)
    }
}

/// A log of which an entry is broken.
pub struct SabotagedLog<L> {
    log: L,
    trigger: Option<Trigger>,
    /// The entry at the head of the log, broken.
    broken: Option<(Lsn, Entry)>,
    /// There was such an entry.
    was_broken: bool,
}

impl<L> SabotagedLog<L> {
    /// `log`, but for `plan`, if it is one for entries.
    #[must_use]
    pub fn new(log: L, plan: Option<Plan>) -> Self {
        let plan = plan.filter(|plan| plan.target == Target::Entry);
        Self {
            log,
            trigger: plan.map(Trigger::new),
            broken: None,
            was_broken: false,
        }
    }
}

impl<L: LogSource> LogSource for SabotagedLog<L> {
    fn head(&mut self) -> Step<Head<'_>> {
        if let Some(trigger) = &mut self.trigger
            && self.broken.is_none()
            && let Head::Entry(lsn, entry) = self.log.head()?
            && let Payload::NetRx(frame) = &entry.payload
            && frame.len() > WITH_DATA
            && trigger.pull()
        {
            trigger.set(AGAIN);
            let mut frame = frame.clone();
            let letter = frame.len() - LAST_LETTER;
            frame[letter] ^= 1 << 4;
            let entry = Entry {
                payload: Payload::NetRx(frame),
                ..entry.clone()
            };
            self.broken = Some((lsn, entry));
            self.was_broken = true;
        }
        match &self.broken {
            Some((lsn, entry)) => Ok(Head::Entry(*lsn, entry)),
            None => self.log.head(),
        }
    }

    fn advance(&mut self) {
        self.broken = None;
        self.log.advance();
    }

    fn after_end(&mut self) -> Interruption {
        self.log.after_end()
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        if self.was_broken {
            self.trigger = None;
        }
        self.log.differs(divergence)
    }

    fn is_repaired(&mut self) {
        self.log.is_repaired();
    }
}
