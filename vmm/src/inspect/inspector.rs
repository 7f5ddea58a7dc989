//! An event source that stops a replay at a point, and lets a debugger stop it anywhere.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use anyhow::Error;
use logging_channel::entry::{Lsn, OutputMarker, Registers, ShutdownReason};

use super::debugger::{Debugger, Fate};
use super::dump::{self, Dumps, Format, RegisterDump};
use super::point::Point;
use crate::cpu::debug::SystemRegisters;
use crate::devices::{Appetite, ClockNeed, Input};
use crate::engine::{EventSource, Interruption, Moment, Step, Waited};
use crate::ram::GuestRam;

/// Where a replay was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Exits that the guest has made.
    pub exits: u64,
    /// The log's next entry.
    pub next: Lsn,
    /// RIP at the last exit.
    pub rip: u64,
}

/// Stops the replay that `S` is the source of.
///
/// What is shown at a point is the guest as it is about to run on from an exit: memory with the
/// inputs that belong to the exit, general registers as they were logged. The instruction that
/// made the exit has not got its answer yet.
pub struct Inspector<S> {
    inner: S,
    memory: GuestRam,
    /// Where to stop, until that is reached.
    until: Option<Point>,
    dumps: Dumps,
    /// The log's next entry.
    next: Rc<Cell<Lsn>>,
    arrival: Rc<Cell<Option<Arrival>>>,
    /// At the last exit, or interrupt window.
    registers: Option<Registers>,
    debugger: Option<Debugger>,
    /// The replay was ended here, not by the log.
    stopped: bool,
}

impl<S: EventSource> Inspector<S> {
    /// Around `inner`, whose log keeps `next` at the entry that it is to use next.
    #[must_use]
    pub fn new(inner: S, memory: GuestRam, next: Rc<Cell<Lsn>>) -> Self {
        Self {
            inner,
            memory,
            until: None,
            dumps: Dumps::default(),
            next,
            arrival: Rc::default(),
            registers: None,
            debugger: None,
            stopped: false,
        }
    }

    /// Stops at `point` and shows `dumps` there. Then the replay ends, but for a debugger.
    #[must_use]
    pub fn with_stop(mut self, point: Point, dumps: Dumps) -> Self {
        self.until = Some(point);
        self.dumps = dumps;
        self
    }

    /// Waits for a debugger at the stop, or at the start if there is none.
    #[must_use]
    pub fn with_debugger(mut self, debugger: Debugger) -> Self {
        self.debugger = Some(debugger);
        self
    }

    /// Where it stopped, once it has.
    #[must_use]
    pub fn arrival(&self) -> Rc<Cell<Option<Arrival>>> {
        self.arrival.clone()
    }

    /// The guest has come to a place that is the same in every run.
    fn landed(&mut self, at: &mut Moment<'_>) -> Step<()> {
        if let Some(debugger) = &mut self.debugger {
            debugger.landed(at)?;
        }
        if self.until.is_some() {
            self.registers = Some(at.registers()?);
        }
        Ok(())
    }

    fn arrive(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.until = None;
        let general = match self.registers {
            Some(registers) => registers,
            None => {
                // Not run yet, and so not entered into KVM: that makes the registers known.
                at.cpu.complete_access()?;
                at.registers()?
            }
        };
        let arrival = Arrival {
            exits: at.point.exits,
            next: self.next.get(),
            rip: general.rip,
        };
        self.arrival.set(Some(arrival));
        self.show(at, &general)
            .map_err(|error| Interruption::Failed(format!("{error:#}")))
    }

    fn show(&self, at: &mut Moment<'_>, general: &Registers) -> Result<(), Error> {
        if let Some(format) = self.dumps.registers {
            let system = match at.cpu.for_debugger() {
                Some(cpu) => cpu.system_registers()?,
                None => SystemRegisters::default(),
            };
            let dump = RegisterDump {
                exits: at.point.exits,
                next: self.next.get(),
                general,
                system: &system,
            };
            let mut out = io::stdout().lock();
            match format {
                Format::Text => write!(out, "{dump}")?,
                Format::Json => writeln!(out, "{:#}", dump.json())?,
            }
        }
        if let Some(path) = &self.dumps.memory {
            dump::write_memory(&self.memory, path)?;
        }
        Ok(())
    }

    /// Lets the debugger have the guest, if it wants it. The guest may not run on after that if
    /// the debugger ended the replay.
    fn debug(&mut self, at: &mut Moment<'_>) -> Step<()> {
        if self.until.is_some() {
            return Ok(());
        }
        let Some(debugger) = &mut self.debugger else {
            return Ok(());
        };
        match debugger.depart(at, &self.memory)? {
            Fate::GoesOn => Ok(()),
            Fate::Detached => {
                log::info!("the debugger is gone; the replay goes on to the end of the log");
                self.debugger = None;
                Ok(())
            }
            Fate::Killed => {
                log::info!("the debugger ended the replay");
                self.stopped = true;
                Err(Interruption::Stop)
            }
        }
    }
}

impl<S: EventSource> EventSource for Inspector<S> {
    fn at_exit(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.landed(at)?;
        self.inner.at_exit(at)
    }

    fn clock(&mut self, at: &mut Moment<'_>, need: ClockNeed) -> Step<u64> {
        self.inner.clock(at, need)
    }

    fn poll(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>> {
        self.inner.poll(at, appetite)
    }

    fn wait(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<Waited> {
        self.inner.wait(at, appetite)
    }

    fn window(&mut self, at: &mut Moment<'_>, vector: Option<u8>) -> Step<()> {
        self.landed(at)?;
        self.inner.window(at, vector)
    }

    fn output(&mut self, at: &mut Moment<'_>, marker: OutputMarker) -> Step<Lsn> {
        self.inner.output(at, marker)
    }

    fn depart(&mut self, at: &mut Moment<'_>) -> Step<Option<u64>> {
        // Before the log is asked to run on: it may move the guest to the next exit at once.
        let reached = |point: Point| point.is_reached(at.point.exits, self.next.get());
        if self.until.is_some_and(reached) {
            self.arrive(at)?;
            if self.debugger.is_none() {
                self.stopped = true;
                return Err(Interruption::Stop);
            }
        }
        if let Some(exits) = self.inner.depart(at)? {
            return Ok(Some(exits));
        }
        if self.debugger.is_some() {
            self.debug(at)?;
            // Again, for the time it took is not the guest's. Everything that the log has for
            // this place is used, so nothing else can come of it.
            return self.inner.depart(at);
        }
        Ok(None)
    }

    fn kicked(&mut self, at: &mut Moment<'_>, appetite: &Appetite) -> Step<bool> {
        if let Some(debugger) = &mut self.debugger
            && debugger.kicked(at)?
        {
            return Ok(false);
        }
        self.inner.kicked(at, appetite)
    }

    fn recover(&mut self, at: &mut Moment<'_>, trouble: Interruption) -> Step<u64> {
        self.landed(at)?;
        self.inner.recover(at, trouble)
    }

    fn ended(&mut self, at: &mut Moment<'_>, reason: ShutdownReason) -> Step<()> {
        if self.stopped {
            return Ok(());
        }
        self.inner.ended(at, reason)?;
        let reached =
            |point: Point| point == Point::End || point.is_reached(at.point.exits, self.next.get());
        if self.until.is_some_and(reached) {
            self.arrive(at)?;
            self.debug(at)?;
        }
        Ok(())
    }
}
