//! Breaks a replay on purpose, so that tests can see that it is found.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, Landmark, Lsn, OutputMarker, Payload, ShutdownReason};
use vm_memory::{Bytes, GuestAddress};

use super::StateFollower;
use super::log_source::{Head, LogSource};
use crate::devices::{Appetite, ClockNeed, Input};
use crate::dice::Dice;
use crate::engine::{Divergence, EventSource, Interruption, Moment, Step, Waited};
use crate::page_tables::flip_accessed_bit;
use crate::ram::GuestRam;

/// A byte below 640 KiB that Linux has no use for, so that only a digest can find it changed.
const VICTIM: GuestAddress = GuestAddress(0x9_f000);
/// Bytes in the log of a frame that are more than headers: 66 of Ethernet, IP and TCP, and up to 11
/// before them.
const WITH_DATA: usize = 90;
/// So far from a frame's end is the last letter of a request that ends with CR and LF.
const LAST_LETTER: usize = 3;
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
    /// The accessed bit of a page of the kernel's, in tables that all programs share, fifty times a
    /// second, until it is found: as where processors set it when they like.
    AccessedBit,
    /// The place of an interrupt window in the log, every second, until it is found: as where a host
    /// makes an exit one instruction early.
    Window,
    /// A bit of a log entry, as if its checksum had not shown it: of a request in a frame, every
    /// second, until it is found. (A guest may have no use for a time, or for the end of a line, and
    /// then nothing differs.)
    Entry,
}

impl Target {
    /// When it is broken again, unless that was found. Digests look at few page tables each time: the more
    /// of them are wrong, the sooner one is found.
    fn again(self) -> Duration {
        match self {
            Self::AccessedBit => Duration::from_millis(20),
            _ => Duration::from_secs(1),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            "register" => Ok(Self::Register),
            "accessed-bit" => Ok(Self::AccessedBit),
            "window" => Ok(Self::Window),
            "entry" => Ok(Self::Entry),
            other => Err(format!(
                "\"{other}\" is none of memory, register, accessed-bit, window, entry"
            )),
        }
    }
}

/// What is broken, one thing after the other: the next one begins when it is asked for, and ends when
/// it is found.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In this order.
    pub targets: Vec<Target>,
    /// Asks for the next one.
    pub next: Arc<AtomicBool>,
}

/// How far a plan is carried out.
#[derive(Debug)]
struct PlanProgress {
    next: Arc<AtomicBool>,
    to_come: VecDeque<Target>,
    /// What is being broken, and when a bit of it is flipped.
    under_way: Option<(Target, Instant)>,
}

impl PlanProgress {
    fn new(plan: Plan) -> Self {
        Self {
            next: plan.next,
            to_come: plan.targets.into(),
            under_way: None,
        }
    }

    /// What is being broken.
    fn target(&mut self) -> Option<Target> {
        if self.next.swap(false, Ordering::Relaxed) {
            let next = self.to_come.pop_front();
            self.under_way = next.map(|target| (target, Instant::now()));
        }
        self.under_way.map(|(target, _)| target)
    }

    /// Whether it is time to flip a bit of `target`: see [`Target::again`].
    fn is_due(&mut self, target: Target) -> bool {
        let now = Instant::now();
        let due = self.target() == Some(target) && self.under_way.is_some_and(|(_, at)| at <= now);
        if due {
            log::warn!("a bit is flipped on purpose: {target:?}");
            self.under_way = Some((target, now + target.again()));
        }
        due
    }

    fn is_found(&mut self) {
        self.under_way = None;
    }
}

/// Carries out a plan, in the log and in the guest that follows it.
#[derive(Debug, Clone)]
pub struct Saboteur(Rc<RefCell<PlanProgress>>);

impl Saboteur {
    /// One that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self(Rc::new(RefCell::new(PlanProgress::new(plan))))
    }

    /// `log`, with entries that are broken.
    #[must_use]
    pub fn log<L: LogSource>(&self, log: L) -> SabotagedLog<L> {
        SabotagedLog {
            log,
            saboteur: self.clone(),
            broken: None,
        }
    }

    /// `source`, which breaks registers and `memory`.
    #[must_use]
    pub fn source<S: EventSource>(self, source: S, memory: GuestRam) -> Sabotage<S> {
        Sabotage {
            source,
            memory,
            saboteur: self,
            dice: Dice(0),
        }
    }
}

/// A source that breaks memory or a register of the guest.
pub struct Sabotage<S> {
    source: S,
    memory: GuestRam,
    saboteur: Saboteur,
    dice: Dice,
}

impl<S> Sabotage<S> {
    fn break_something(&mut self, at: &mut Moment<'_>) -> Step<()> {
        let mut progress = self.saboteur.0.borrow_mut();
        match progress.target() {
            Some(Target::Memory) if progress.is_due(Target::Memory) => {
                // Set and not flipped: the second time must not take the first one back.
                let byte: u8 = self.memory.read_obj(VICTIM).unwrap_or_default();
                self.memory
                    .write_obj(byte | 0x10, VICTIM)
                    .map_err(|error| Interruption::Failed(error.to_string()))
            }
            Some(Target::AccessedBit) if progress.is_due(Target::AccessedBit) => {
                let cr3 = at.registers()?.cr3;
                let flipped = flip_accessed_bit(&self.memory, cr3, |count| self.dice.roll(count));
                if flipped.is_none() {
                    log::debug!("no page was found below {cr3:#x}");
                }
                Ok(())
            }
            Some(Target::Register) => {
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

    fn wait(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Waited> {
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
        self.saboteur.0.borrow_mut().is_found();
        self.source.recover(at, trouble)
    }

    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()> {
        self.source.ended(at, reason)
    }
}

/// A log of which entries are broken.
pub struct SabotagedLog<L> {
    log: L,
    saboteur: Saboteur,
    /// The entry at the head of the log, broken.
    broken: Option<(Lsn, Entry)>,
}

/// `entry` broken, if it is time for that and it is one that can be.
fn broken(entry: &Entry, progress: &mut PlanProgress) -> Option<Entry> {
    match (&entry.payload, entry.point.landmark) {
        (Payload::NetRx(frame), _) if frame.len() > WITH_DATA && progress.is_due(Target::Entry) => {
            let mut frame = frame.clone();
            let letter = frame.len() - LAST_LETTER;
            frame[letter] ^= 1 << 4;
            Some(Entry {
                payload: Payload::NetRx(frame),
                ..entry.clone()
            })
        }
        (_, Some(Landmark { rip })) if progress.is_due(Target::Window) => {
            let mut entry = entry.clone();
            entry.point.landmark = Some(Landmark {
                rip: rip.wrapping_sub(1),
            });
            Some(entry)
        }
        _ => None,
    }
}

impl<L: LogSource> LogSource for SabotagedLog<L> {
    fn head(&mut self) -> Step<Head<'_>> {
        if self.broken.is_none()
            && let Head::Entry(lsn, entry) = self.log.head()?
        {
            let broken = broken(entry, &mut self.saboteur.0.borrow_mut());
            self.broken = broken.map(|entry| (lsn, entry));
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

    fn keep_state(&mut self, state: StateFollower) {
        self.log.keep_state(state);
    }

    fn after_end(&mut self) -> Interruption {
        self.log.after_end()
    }

    fn differs(&mut self, divergence: &Divergence) -> bool {
        self.log.differs(divergence)
    }

    fn is_repaired(&mut self) {
        self.log.is_repaired();
    }
}
