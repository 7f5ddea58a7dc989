//! The engine: runs the guest from exit to exit, for every role.
//!
//! What differs between a primary, a backup, a recording, a replay and a lone machine is where
//! inputs come from ([`EventSource`]) and where outputs go ([`OutputGate`]); both are put in at
//! construction. Nothing here asks which role it has. When a role changes, its source hands over
//! the next pair ([`Interruption::Handover`]), and the engine goes on with that.
//!
//! Interrupts are not logged as inputs: which interrupt is delivered where follows by rule from
//! the inputs, the devices' state, and the processor's readiness, and is the same in every run:
//!
//! 1. At a deterministic exit, inputs that the source has for it are applied to the devices.
//! 2. If the interrupt controller then asks for service and the guest can take an interrupt, it is
//!    injected right there.
//! 3. Otherwise the interrupt window is asked for, and the interrupt goes in where it opens: the
//!    first instruction boundary with interrupts enabled. The place is logged as a landmark, so
//!    that a replay can tell that it came out at the same one; also where the window turns out to
//!    have nothing to let in ([`Devices::miss_window`]).
//!
//! A guest that makes no exits for long is stopped somewhere, and the place is made an exit like
//! any other, with the next ordinal. The source that stopped it logs what names the place, a count
//! or the state there, and a replaying source brings the guest to it
//! ([`EventSource::kicked`], [`EventSource::depart`]).

mod cause;
mod moment;
pub mod source;
pub mod tally;
#[cfg(test)]
mod tests;

use logging_channel::entry::{ExecutionPoint, Landmark, ShutdownReason};

pub use self::moment::Moment;
pub use self::source::{
    Difference, Divergence, EventSource, Interruption, OutputGate, Role, StateDifference, Step,
    Waited,
};
use self::tally::{ExitKind, ExitTally};
use crate::cpu::{CpuError, Exit, GuestCpu, PortAccess};
use crate::devices::virtio::net::frame::Offloads;
use crate::devices::{Appetite, ClockNeed, Devices, Input, Output};
use crate::traps::{Trapped, TscTrap};

/// Inputs that are delivered at one exit at most: about as many as wait for a guest at a time. Others
/// wait for the next exit, so that the guest gets on however fast they come.
const MOST_INPUTS: usize = 256;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: ShutdownReason,
    /// Deterministic exits that the guest made.
    pub exits: u64,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The processor could not go on.
    #[error("the guest's processor cannot go on at exit {exits}")]
    Cpu {
        /// Deterministic exits so far.
        exits: u64,
        /// What happened.
        #[source]
        source: CpuError,
    },
    /// The replay differs from the log.
    #[error("the replay diverged from the log: {0}")]
    Diverged(Box<Divergence>),
    /// The source failed.
    #[error("{0}")]
    Source(String),
    /// This host must not go on: the role was lost.
    #[error("halted: {0}")]
    Halted(String),
}

/// Runs one guest.
pub struct Engine<C> {
    cpu: C,
    devices: Devices,
    traps: TscTrap,
    role: Role,
    /// The role before, until the guest has run in this one: it may take long to drop.
    former: Option<Role>,
    exits: u64,
    /// The last input at this exit came without the time.
    time_passed_untold: bool,
    tally: ExitTally,
}

impl<C: GuestCpu> Engine<C> {
    /// An engine for a guest that has not run yet.
    pub fn new(cpu: C, devices: Devices, traps: TscTrap, role: Role) -> Self {
        Self {
            cpu,
            devices,
            traps,
            role,
            former: None,
            exits: 0,
            time_passed_untold: false,
            tally: ExitTally::default(),
        }
    }

    /// The same, with its exits counted in `tally`.
    #[must_use]
    pub fn with_tally(mut self, tally: ExitTally) -> Self {
        self.tally = tally;
        self
    }

    /// The guest's processor.
    pub fn cpu(&mut self) -> &mut C {
        &mut self.cpu
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn run(&mut self) -> Result<Ended, EngineError> {
        match self.run_until_interrupted() {
            Ok(reason) => Ok(Ended {
                reason,
                exits: self.exits,
            }),
            Err(Interruption::Diverged(d)) => Err(EngineError::Diverged(d)),
            Err(Interruption::Failed(reason)) => Err(EngineError::Source(reason)),
            Err(Interruption::Halt(reason)) => Err(EngineError::Halted(reason)),
            Err(Interruption::Cpu(source)) => Err(EngineError::Cpu {
                exits: self.exits,
                source,
            }),
            Err(Interruption::Stop | Interruption::Handover(_)) => {
                unreachable!("both are dealt with where they arise")
            }
        }
    }

    fn run_until_interrupted(&mut self) -> Step<ShutdownReason> {
        let mut outcome = self.turn();
        loop {
            let ended = match outcome {
                Err(trouble @ (Interruption::Diverged(_) | Interruption::Cpu(_))) => {
                    let exits = self.recover(trouble)?;
                    outcome = self.arrive(exits);
                    continue;
                }
                Err(Interruption::Stop) => Some(ShutdownReason::Stopped),
                other => other?,
            };
            outcome = match ended {
                None => self.turn(),
                Some(reason) => match self.ask(|source, at| source.ended(at, reason)) {
                    Ok(()) => return Ok(reason),
                    Err(why) => Err(why),
                },
            };
        }
    }

    /// Runs the guest to its next exit, and deals with that. Returns why the guest ended, if it
    /// did.
    fn turn(&mut self) -> Step<Option<ShutdownReason>> {
        self.prepare_entry()?;
        loop {
            if let Some(exits) = self.ask(|source, at| source.depart(at))? {
                return self.arrive(exits);
            }
            let exit = self.cpu.run()?;
            self.former = None;
            self.tally.count(ExitKind::of(&exit));
            if exit != Exit::Kicked {
                // Not at a place that a replay does not know.
                self.devices.set_task_priority(self.cpu.task_priority());
            }
            match exit {
                Exit::Kicked => {
                    let appetite = self.devices.appetite();
                    if self.ask(|source, at| source.kicked(at, &appetite))? {
                        return self.arrive(self.exits + 1);
                    }
                    // Nothing may be injected here: a replay would not know.
                }
                Exit::InterruptWindow => {
                    self.open_window()?;
                    return Ok(None);
                }
                deterministic => return self.handle(deterministic),
            }
        }
    }

    /// The guest stands at exit `exits` without having made one. It may be halted there.
    fn arrive(&mut self, exits: u64) -> Step<Option<ShutdownReason>> {
        self.stand_at(exits)?;
        if self.devices.is_halted() {
            self.sleep()?;
        }
        Ok(None)
    }

    fn stand_at(&mut self, exits: u64) -> Step<()> {
        self.tally.count(ExitKind::Stop);
        self.exits = exits;
        self.time_passed_untold = false;
        self.devices.set_task_priority(self.cpu.task_priority());
        self.cpu.execution_point();
        self.ask(|source, at| source.at_exit(at))?;
        self.take_inputs()
    }

    fn recover(&mut self, trouble: Interruption) -> Step<u64> {
        let point = ExecutionPoint::at_exit(self.exits);
        let mut moment = Moment::new(point, &mut self.cpu, &mut self.devices);
        self.role.source.recover(&mut moment, trouble)
    }

    fn take_inputs(&mut self) -> Step<()> {
        for _ in 0..MOST_INPUTS {
            let Some(input) = self.poll(self.devices.appetite())? else {
                return Ok(());
            };
            self.apply(input)?;
        }
        // The source has its say at every exit.
        while let Some(input) = self.poll(Appetite::default())? {
            self.apply(input)?;
        }
        Ok(())
    }

    /// One deterministic exit. Returns why the guest ended, if it did.
    fn handle(&mut self, exit: Exit) -> Step<Option<ShutdownReason>> {
        self.exits += 1;
        self.time_passed_untold = false;
        self.cpu.execution_point();
        self.ask(|source, at| source.at_exit(at))?;
        match exit {
            Exit::Io(access) => self.port_access(access)?,
            Exit::Mmio { address, write, .. } => {
                let data = self.cpu.io_data();
                if write {
                    self.devices.write_memory(address, data);
                } else {
                    self.devices.read_memory(address, data);
                }
            }
            Exit::Msr { index, write } => self.msr_access(index, write)?,
            Exit::Halt { .. } => self.devices.halted(),
            Exit::TaskPriority => {}
            Exit::TripleFault => return Ok(Some(ShutdownReason::TripleFault)),
            Exit::Kicked | Exit::InterruptWindow => unreachable!("not deterministic exits"),
        }
        self.emit_outputs()?;
        if self.devices.reset_requested() {
            return Ok(Some(ShutdownReason::Reset));
        }
        if self.devices.is_off() {
            return Ok(Some(ShutdownReason::PowerOff));
        }
        self.take_inputs()?;
        if let Exit::Halt { interruptible } = exit {
            if !interruptible {
                return Ok(Some(ShutdownReason::PowerOff));
            }
            self.sleep()?;
        }
        Ok(None)
    }

    /// The guest is halted: waits for an interrupt.
    fn sleep(&mut self) -> Step<()> {
        while !self.devices.interrupt_pending() {
            let appetite = self.devices.appetite();
            match self.ask(|source, at| source.wait(at, &appetite))? {
                Waited::Input(input) => self.apply(input)?,
                Waited::Arrived(exits) => self.stand_at(exits)?,
            }
        }
        self.devices.woke();
        if self.time_passed_untold && self.traps.cache.is_read() {
            // It may have slept long, and the kernel measures that. An entry costs less than the
            // exit at which it would ask.
            self.clock(Some(ClockNeed::Tsc))?;
        }
        Ok(())
    }

    fn apply(&mut self, input: Input) -> Step<()> {
        self.time_passed_untold = !matches!(input, Input::Tick(_));
        if let Input::Tick(now) = &input {
            self.traps.cache.refresh(*now);
        }
        self.devices.apply(input);
        self.emit_outputs()
    }

    fn poll(&mut self, appetite: Appetite) -> Step<Option<Input>> {
        self.ask(|source, at| source.poll(at, &appetite))
    }

    fn clock(&mut self, need: Option<ClockNeed>) -> Step<u64> {
        match need {
            None => Ok(0),
            Some(need) => {
                let value = self.ask(|source, at| source.clock(at, need))?;
                if need != ClockNeed::Wall {
                    self.traps.cache.refresh(value);
                }
                Ok(value)
            }
        }
    }

    fn port_access(&mut self, access: PortAccess) -> Step<()> {
        let PortAccess {
            port,
            write,
            size,
            count,
        } = access;
        if write && size == 1 && count == 1 && TscTrap::owns(port) {
            return self.trap(port);
        }
        let need = self.devices.clock_need(port, write);
        if need == Some(ClockNeed::Tsc) {
            let value = self.clock(need)?;
            self.cpu.finish_tsc(value);
            return Ok(());
        }
        // String instructions bring several accesses in one exit.
        for n in 0..count as usize {
            let clock = self.clock(need)?;
            let range = n * usize::from(size)..(n + 1) * usize::from(size);
            let Some(data) = self.cpu.io_data().get_mut(range) else {
                break;
            };
            if write {
                self.devices.write_port(port, data, clock);
            } else {
                self.devices.read_port(port, data, clock);
            }
        }
        Ok(())
    }

    fn trap(&mut self, port: u16) -> Step<()> {
        if let Trapped::CounterRead(read) = self.traps.trapped(&mut self.cpu, port)? {
            let value = self.clock(Some(ClockNeed::Tsc))?;
            self.traps.answer(&mut self.cpu, read, value)?;
        }
        Ok(())
    }

    fn msr_access(&mut self, index: u32, write: Option<u64>) -> Step<()> {
        let need = self.devices.msr_clock_need(index, write.is_some());
        let clock = self.clock(need)?;
        let answer = match write {
            None => self.devices.read_msr(index, clock),
            Some(value) => {
                let wall = self.devices.msr_needs_wall_clock(index);
                let wall = self.clock(wall.then_some(ClockNeed::Wall))?;
                let taken = self.devices.write_msr(index, value, clock, wall);
                taken.then_some(0)
            }
        };
        if answer.is_none() {
            log::debug!("MSR {index:#x} refused (write: {write:x?})");
        }
        self.cpu.finish_msr(answer);
        Ok(())
    }

    fn emit_outputs(&mut self) -> Step<()> {
        while let Some(output) = self.devices.next_output() {
            let wanted = self.role.source.wants_markers();
            let lsn = match wanted.then(|| output.marker()).flatten() {
                Some(marker) => Some(self.ask(|source, at| source.output(at, marker))?),
                None => None,
            };
            // Only now: a role that takes over in between gets it once, and not again as one
            // that is unfinished.
            let output = self.devices.take_output().expect("it was there");
            self.role.gate.submit(output, lsn);
        }
        Ok(())
    }

    /// Injects what can be injected, and asks for the window where it cannot.
    fn prepare_entry(&mut self) -> Step<()> {
        self.devices.look_for_untold_end();
        self.cpu.set_task_priority(self.devices.task_priority());
        if self.devices.interrupt_pending() && self.cpu.ready_for_interrupt() {
            let vector = self.devices.acknowledge_interrupt();
            self.cpu.inject(vector)?;
        }
        self.cpu
            .request_interrupt_window(self.devices.wants_window());
        Ok(())
    }

    fn open_window(&mut self) -> Step<()> {
        let landmark = Landmark {
            rip: self.cpu.rip()?,
        };
        let point = ExecutionPoint {
            exits: self.exits,
            landmark: Some(landmark),
        };
        if !self.devices.interrupt_pending() {
            self.devices.miss_window();
            return self.ask_at(point, |source, at| source.window(at, None));
        }
        let vector = self.devices.acknowledge_interrupt();
        self.ask_at(point, |source, at| source.window(at, Some(vector)))?;
        self.cpu.inject(vector)?;
        Ok(())
    }

    fn ask<T>(
        &mut self,
        question: impl FnMut(&mut dyn EventSource, &mut Moment<'_>) -> Step<T>,
    ) -> Step<T> {
        self.ask_at(ExecutionPoint::at_exit(self.exits), question)
    }

    /// Hands the requests to the disk of which no completion was logged to the new role's gate.
    /// Whether the role before did them is not known: that they are done twice is harmless,
    /// because the guest uses nothing of them before they are completed.
    fn issue_again(&mut self) {
        self.devices.forget_abandoned_requests();
        for request in self.devices.unfinished() {
            log::info!("issuing disk request {} again", request.id);
            self.role.gate.submit(Output::Disk(request), None);
        }
    }

    /// Puts a question to the source; when that hands over to another role, puts it to that one.
    fn ask_at<T>(
        &mut self,
        point: ExecutionPoint,
        mut question: impl FnMut(&mut dyn EventSource, &mut Moment<'_>) -> Step<T>,
    ) -> Step<T> {
        loop {
            let mut moment = Moment::new(point, &mut self.cpu, &mut self.devices);
            match question(&mut *self.role.source, &mut moment) {
                Err(Interruption::Handover(next)) => {
                    self.former = Some(std::mem::replace(&mut self.role, *next));
                    let offloads = self.devices.offloads();
                    if offloads != Offloads::default() {
                        self.role.gate.submit(Output::Offloads(offloads), None);
                    }
                    self.issue_again();
                }
                answer => return answer,
            }
        }
    }
}
