//! Where a guest's inputs come from, and where its outputs go.

use std::fmt;

use logging_channel::entry::{ExecutionPoint, Lsn, OutputMarker, Payload, ShutdownReason};

use super::Moment;
use crate::cpu::CpuError;
use crate::devices::{Appetite, ClockNeed, Input, Output};

/// What a halted guest waited for.
#[derive(Debug)]
pub enum Waited {
    /// An input.
    Input(Input),
    /// The guest stands at this exit now, as at one that it made, and is halted still.
    Arrived(u64),
}

/// Answers to the engine's questions, live or from the log.
///
/// Each question comes with the [`Moment`] it is asked at. A live source decides and, where it
/// records, logs its answer; a replaying source gives the logged answer, and says so when the log
/// has another one for this moment.
pub trait EventSource {
    /// A deterministic exit happened.
    ///
    /// # Errors
    /// [`Interruption`], as for every question.
    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()>;

    /// The value of a clock.
    ///
    /// # Errors
    /// [`Interruption`].
    fn clock(&mut self, at: &mut Moment<'_>, need: ClockNeed) -> Step<u64>;

    /// The next input that belongs to this exit, or none. Does not wait for the outside world.
    ///
    /// # Errors
    /// [`Interruption`].
    fn poll(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>>;

    /// The guest is halted: waits for the next input. Or the place becomes an exit, with the state that the
    /// guest has here.
    ///
    /// # Errors
    /// [`Interruption`].
    fn wait(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Waited>;

    /// An interrupt window opened, at a landmark. The interrupt `vector` is being delivered there,
    /// or there is none to be delivered. The devices change in both cases, so that a replay must
    /// not get past the place in any other way than by running.
    ///
    /// # Errors
    /// [`Interruption`].
    fn window(&mut self, at: &mut Moment<'_>, vector: Option<u8>) -> Step<()>;

    /// The guest made an output. Returns its log entry's LSN.
    ///
    /// # Errors
    /// [`Interruption`].
    fn output(&mut self, at: &mut Moment<'_>, marker: OutputMarker) -> Step<Lsn>;

    /// Whether [`EventSource::output`] is to be called at all: a marker takes a look at every byte.
    fn wants_markers(&self) -> bool {
        true
    }

    /// The guest is about to run on. A source may move it in place of that, without an exit of
    /// its own: to a stop that the primary made (see [`EventSource::kicked`]), or to a state that
    /// it takes over. Returns the ordinal of the exit that the guest stands at then.
    ///
    /// # Errors
    /// [`Interruption`].
    fn depart(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        let _ = at;
        Ok(None)
    }

    /// The host stopped the guest, somewhere. `true` makes the place an exit like any other, the
    /// next one, at which inputs are delivered; a recording source has named it in its log then.
    /// `false` lets the guest run on as if nothing had been.
    ///
    /// # Errors
    /// [`Interruption`].
    fn kicked(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<bool>;

    /// The guest cannot go on from here: `trouble` is a divergence or a failure of the processor.
    /// A source that can get the guest's state from elsewhere does, and returns the ordinal of
    /// the exit that the guest stands at then.
    ///
    /// # Errors
    /// `trouble` itself where nothing can be done.
    fn recover(&mut self, at: &mut Moment<'_>, trouble: Interruption) -> Step<u64> {
        let _ = at;
        Err(trouble)
    }

    /// The guest ended.
    ///
    /// # Errors
    /// [`Interruption`].
    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()>;
}

/// Where outputs go.
pub trait OutputGate {
    /// Takes an output. `lsn` is its log entry, if it has one: a request to the disk that changes
    /// nothing there has none, and neither has one that is issued again.
    fn submit(&mut self, output: Output, lsn: Option<Lsn>);
}

/// A source and a gate that belong together.
pub struct Role {
    /// Where inputs come from.
    pub source: Box<dyn EventSource>,
    /// Where outputs go.
    pub gate: Box<dyn OutputGate>,
}

/// An answer, or why there is none.
pub type Step<T> = Result<T, Interruption>;

/// Why a source does not answer.
pub enum Interruption {
    /// Another role takes over from here; the same question goes to it.
    Handover(Box<Role>),
    /// The run ends at this exit, in order.
    Stop,
    /// This host must not go on.
    Halt(String),
    /// The guest is not where the log says it should be.
    Diverged(Box<Divergence>),
    /// The log or its channel failed.
    Failed(String),
    /// The processor failed.
    Cpu(CpuError),
}

impl Interruption {
    /// The replay at `point` differs from the log entry `lsn`.
    #[must_use]
    pub fn diverged(point: ExecutionPoint, lsn: Lsn, difference: Difference) -> Self {
        Self::Diverged(Box::new(Divergence {
            point,
            lsn,
            difference,
        }))
    }
}

impl From<CpuError> for Interruption {
    fn from(error: CpuError) -> Self {
        Self::Cpu(error)
    }
}

/// The first difference between a replay and its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Where the replay is.
    pub point: ExecutionPoint,
    /// The log entry that it was compared with.
    pub lsn: Lsn,
    /// What differs.
    pub difference: Difference,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A register.
    Register {
        /// Its name.
        name: &'static str,
        /// Its value in the log.
        logged: u64,
        /// Its value in the replay.
        replayed: u64,
    },
    /// The digest of the registers; the values themselves were not logged.
    RegisterDigest {
        /// In the log.
        logged: u32,
        /// In the replay.
        replayed: u32,
    },
    /// The log has something else here.
    Event {
        /// What the log has, and where.
        logged: String,
        /// What the replay came to.
        replayed: String,
    },
    /// The interrupt window opened somewhere else behind the same exit.
    Window {
        /// RIP there in the log.
        logged: u64,
        /// In the replay.
        replayed: u64,
    },
    /// A digest of the whole state.
    State(Box<StateDifference>),
    /// The guest was not where the primary stopped it.
    Seek(String),
    /// The performance counter stopped the guest behind where the primary stopped it. It need not
    /// differ, but cannot go back.
    Overrun(String),
    /// The performance counter that would find where the primary stopped the guest is lost.
    CounterLost(String),
    /// The processor failed.
    Processor(String),
    /// A state transfer could not be used.
    Transfer(String),
    /// The guest runs and runs, and does not come to where the log's next entry is.
    Overdue {
        /// What the log has, and where.
        logged: String,
    },
    /// What the backup read from the shared disk is not what the primary read.
    SharedRead {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u32,
        /// CRC-32 of what the primary read.
        logged: u32,
        /// CRC-32 of what the backup read.
        replayed: u32,
    },
    /// Pages of guest memory at the end.
    Memory {
        /// Guest-physical address of the first page that differs.
        first: u64,
        /// How many differ.
        pages: u64,
    },
}

impl Difference {
    /// Whether it is the performance counter's, and the guest need not differ.
    #[must_use]
    pub fn is_of_counter(&self) -> bool {
        matches!(self, Self::Overrun(_) | Self::CounterLost(_))
    }
}

/// What differs in a digest of the whole state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateDifference {
    /// General registers: name, logged, replayed.
    pub registers: Vec<(&'static str, u64, u64)>,
    /// Other parts of the processor, and devices.
    pub parts: Vec<&'static str>,
    /// Pages of memory, by guest frame number.
    pub pages: Vec<u64>,
    /// How many of them are page tables of the address space there.
    pub page_tables: usize,
    /// How many of them are memory of the program there.
    pub program_pages: usize,
    /// Whose stack is among them, if one is that the processor uses there.
    pub stack: Option<&'static str>,
}

/// So many pages are named in a message.
const PAGES_NAMED: usize = 8;

impl fmt::Display for StateDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (name, logged, replayed) in &self.registers {
            words.push(format!("{name} ({logged:#x}, here {replayed:#x})"));
        }
        words.extend(self.parts.iter().map(|&part| part.to_owned()));
        if !self.pages.is_empty() {
            let named = self.pages.iter().take(PAGES_NAMED);
            let named: Vec<String> = named.map(|page| format!("{:#x}", page << 12)).collect();
            let more = if self.pages.len() > PAGES_NAMED {
                " …"
            } else {
                ""
            };
            let count = self.pages.len();
            words.push(format!(
                "{count} pages of memory at guest-physical {}{more}",
                named.join(" ")
            ));
            let kinds = [
                (self.page_tables, "page tables"),
                (
                    self.program_pages,
                    "memory of the program that is mapped there",
                ),
            ];
            let kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
            words.extend(kinds.map(|(count, kind)| format!("{count} of them {kind}")));
            words.extend(self.stack.map(|stack| format!("{stack} among them")));
        }
        write!(f, "the state differs in {}", words.join(", "))
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} (log entry {}): ", self.point, self.lsn)?;
        match &self.difference {
            Difference::Register {
                name,
                logged,
                replayed,
            } => {
                write!(
                    f,
                    "register {name} was {logged:#x}, the replay has {replayed:#x}"
                )
            }
            Difference::RegisterDigest { logged, replayed } => write!(
                f,
                "the registers' digest was {logged:#010x}, the replay has {replayed:#010x}; a \
                 recording made with --verify names the register"
            ),
            Difference::Event { logged, replayed } => {
                write!(f, "the log has {logged}, the replay came to {replayed}")
            }
            Difference::Window { logged, replayed } => write!(
                f,
                "the interrupt window was open at {logged:#x}, and opens at {replayed:#x} in the replay"
            ),
            Difference::State(difference) => write!(f, "{difference}"),
            Difference::Seek(reason) => {
                write!(
                    f,
                    "the place where the primary stopped is not reached: {reason}"
                )
            }
            Difference::Overrun(reason) => write!(f, "counter overrun: {reason}"),
            Difference::CounterLost(reason) => {
                write!(
                    f,
                    "the place where the primary stopped is not found without the performance \
                     counter, which is not used any more: {reason}"
                )
            }
            Difference::Processor(reason) => write!(f, "the processor cannot go on: {reason}"),
            Difference::Transfer(reason) => write!(f, "a state transfer cannot be used: {reason}"),
            Difference::Overdue { logged } => {
                write!(f, "the log has {logged}, and the replay does not get there")
            }
            Difference::SharedRead {
                offset,
                len,
                logged,
                replayed,
            } => write!(
                f,
                "the {len} bytes at {offset} of the shared disk had CRC {logged:08x} when the \
                 primary read them, and have {replayed:08x} here: both hosts must use the same \
                 disk, and nobody else may write to it"
            ),
            Difference::Memory { first, pages } => write!(
                f,
                "{pages} pages of guest memory differ, the first at guest-physical {first:#x}"
            ),
        }
    }
}

/// What a log entry is, in words, for messages.
#[must_use]
pub fn describe(payload: &Payload) -> String {
    match payload {
        Payload::Tsc(v) => format!("a time stamp counter value ({v})"),
        Payload::Clock(v) => format!("a clock value ({v} ns)"),
        Payload::WallClock(v) => format!("a wall clock value ({v} ns)"),
        Payload::Tick(v) => format!("a timer tick ({v} ns)"),
        Payload::NetRx(frame) => format!("a received frame ({} bytes)", frame.len()),
        Payload::ConsoleInput(bytes) => format!("console input ({} bytes)", bytes.len()),
        Payload::Interrupt(vector) => format!("interrupt {vector:#x} at a window"),
        Payload::Output(m) => {
            format!(
                "an output ({:?}, {} bytes, hash {:08x})",
                m.channel, m.len, m.hash
            )
        }
        Payload::Progress => "a progress mark".into(),
        Payload::Protected { .. } => "the begin of protection".into(),
        Payload::Registers(_) => "a register snapshot".into(),
        Payload::MemoryHashes { .. } => "memory hashes".into(),
        Payload::Shutdown(reason) => format!("the guest's end ({reason:?})"),
        Payload::State(_) => "a state transfer".into(),
        Payload::Renewal(_) => "a state transfer for a cold backup".into(),
        Payload::Digest(_) => "a digest of the state".into(),
        Payload::Counted(stop) => format!("a stop after {} counted events", stop.count),
        Payload::DiskData(bytes) => format!("data of the disk ({} bytes)", bytes.len()),
        Payload::DiskDone { id, outcome } => {
            format!("the completion of disk request {id} ({outcome:?})")
        }
    }
}
