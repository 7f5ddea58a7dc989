//! The guest's side of a debugging session: it runs on the guest's thread, and does what the
//! debugger's thread ([`super::stub`]) asks for.
//!
//! Nothing that a debugger does changes the replay. Breakpoints stop the replay itself, before
//! the instruction, with nothing changed. From there, and from an exit, single steps and
//! everything up to the next exit are an [`Excursion`] of another machine; then the guest does the
//! same, undisturbed. The log's digests are compared all the time.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crossbeam_channel::{Receiver, TryRecvError};
use vm_memory::{Bytes, GuestAddress};

use super::excursion::Excursion;
use super::request::{Request, Snapshot, Stopped};
use super::stub::{self, Link};
use crate::cpu::{Exit, GuestCpu};
use crate::engine::{Interruption, Moment, Step};
use crate::ram::{GuestRam, PAGE};

/// What becomes of the replay.
pub(super) enum Fate {
    GoesOn,
    Detached,
    Killed,
}

/// A debugger of a replayed guest.
pub struct Debugger {
    address: SocketAddr,
    link: Option<Link>,
    /// Linear addresses.
    breakpoints: BTreeSet<u64>,
    /// The processor has them.
    armed: bool,
    /// An excursion is over: up to the next exit, the guest only does what was shown before.
    repeating: bool,
    /// Stop at the next departure.
    stop: Option<Stopped>,
}

impl Debugger {
    /// One that is to connect to `address`, once the guest has come to where it is wanted.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            link: None,
            breakpoints: BTreeSet::new(),
            armed: false,
            repeating: false,
            stop: None,
        }
    }

    /// The guest has made an exit, or came to a place of the log.
    pub(super) fn landed(&mut self, at: &mut Moment<'_>) -> Step<()> {
        self.repeating = false;
        self.disarm(at.cpu)
    }

    /// The processor was stopped. `true` if it was by a breakpoint.
    pub(super) fn kicked(&mut self, at: &mut Moment<'_>) -> Step<bool> {
        let hit = self.armed && self.breakpoints.contains(&at.cpu.rip()?);
        self.disarm(at.cpu)?;
        if hit {
            self.stop = Some(Stopped::Breakpoint);
        }
        Ok(hit)
    }

    /// The guest is about to run on. Returns once it may.
    pub(super) fn depart(&mut self, at: &mut Moment<'_>, memory: &GuestRam) -> Step<Fate> {
        if self.repeating {
            return Ok(Fate::GoesOn);
        }
        let fate = match &self.link {
            None => {
                let link = stub::listen(self.address).map_err(|error| {
                    let address = self.address;
                    Interruption::Failed(format!(
                        "cannot wait for a debugger at {address}: {error}"
                    ))
                })?;
                self.link = Some(link);
                self.serve(at, memory)?
            }
            Some(link) => {
                match link.requests.try_recv() {
                    Ok(Request::Interrupt) => self.stop = Some(Stopped::Interrupted),
                    Ok(Request::Kill) => return Ok(Fate::Killed),
                    Ok(Request::Detach) | Err(TryRecvError::Disconnected) => {
                        return Ok(Fate::Detached);
                    }
                    // Nothing else comes while the guest runs.
                    Ok(_) | Err(TryRecvError::Empty) => {}
                }
                match self.stop.take() {
                    None => Fate::GoesOn,
                    Some(stop) => {
                        link.report(stop);
                        self.serve(at, memory)?
                    }
                }
            }
        };
        if matches!(fate, Fate::GoesOn) && !self.repeating {
            self.arm(at.cpu)?;
        }
        Ok(fate)
    }

    fn arm(&mut self, cpu: &mut dyn GuestCpu) -> Step<()> {
        if self.breakpoints.is_empty() {
            return Ok(());
        }
        let all: Vec<u64> = self.breakpoints.iter().copied().collect();
        if let Some(cpu) = cpu.for_debugger() {
            cpu.set_tripwires(&all)?;
            self.armed = true;
        }
        Ok(())
    }

    fn disarm(&mut self, cpu: &mut dyn GuestCpu) -> Step<()> {
        if std::mem::take(&mut self.armed)
            && let Some(cpu) = cpu.for_debugger()
        {
            cpu.set_tripwires(&[])?;
        }
        Ok(())
    }

    /// Does what the debugger asks for, until the guest is to run on.
    fn serve(&mut self, at: &mut Moment<'_>, memory: &GuestRam) -> Step<Fate> {
        let Some(link) = &self.link else {
            return Ok(Fate::Detached);
        };
        let requests: Receiver<Request> = link.requests.clone();
        at.cpu.complete_access()?;
        let mut excursion: Option<Excursion> = None;
        let fate = loop {
            let request = requests.recv();
            if let Ok(Request::Step) = request
                && excursion.is_none()
            {
                excursion = Excursion::begin(at.cpu, memory)?;
            }
            let is_ahead = excursion.is_some();
            let (cpu, memory): (&mut dyn GuestCpu, _) = match &mut excursion {
                Some(ahead) => (&mut *ahead.cpu, &ahead.memory),
                None => (&mut *at.cpu, memory),
            };
            match request {
                // A reply that is not taken any more: the next request says why.
                Ok(Request::Registers(reply)) => drop(reply.send(snapshot(cpu)?)),
                Ok(Request::Memory {
                    address,
                    len,
                    reply,
                }) => drop(reply.send(read(cpu, memory, address, len))),
                Ok(Request::Breakpoint {
                    address,
                    set,
                    reply,
                }) => drop(reply.send(self.set_breakpoint(cpu, address, set))),
                Ok(Request::Interrupt) => {} // it stands already
                Ok(Request::Step) => {
                    if !is_ahead || !step(cpu) {
                        self.stop = Some(Stopped::Step);
                        break Fate::GoesOn;
                    }
                    self.report(Stopped::Step);
                }
                Ok(Request::Continue) => {
                    if !is_ahead || self.breakpoints.is_empty() {
                        break Fate::GoesOn;
                    }
                    match self.run_ahead(cpu, &requests)? {
                        Some(stop) => self.report(stop),
                        None => break Fate::GoesOn,
                    }
                }
                Ok(Request::Kill) => break Fate::Killed,
                Ok(Request::Detach) | Err(_) => break Fate::Detached,
            }
        };
        if let Some(excursion) = excursion {
            excursion.end(at.cpu)?;
            self.repeating = true;
        }
        Ok(fate)
    }

    fn report(&self, stop: Stopped) {
        if let Some(link) = &self.link {
            link.report(stop);
        }
    }

    /// Runs on in an excursion. `None` at its end.
    fn run_ahead(
        &mut self,
        cpu: &mut dyn GuestCpu,
        requests: &Receiver<Request>,
    ) -> Step<Option<Stopped>> {
        self.arm(cpu)?;
        let stop = loop {
            match cpu.run() {
                Ok(Exit::Kicked) if self.breakpoints.contains(&cpu.rip()?) => {
                    break Some(Stopped::Breakpoint);
                }
                Ok(Exit::Kicked) => match requests.try_recv() {
                    Ok(Request::Interrupt) => break Some(Stopped::Interrupted),
                    Ok(_) | Err(TryRecvError::Disconnected) => break None,
                    Err(TryRecvError::Empty) => {}
                },
                // What failed here fails again when it counts.
                Ok(_) | Err(_) => break None,
            }
        };
        self.disarm(cpu)?;
        Ok(stop)
    }

    /// Breakpoints stop kernel code only. That is the upper half of the address space; before
    /// the kernel is there, or in a guest without one, code runs where it lies in memory.
    fn set_breakpoint(&mut self, cpu: &mut dyn GuestCpu, address: u64, set: bool) -> bool {
        if !set {
            return self.breakpoints.remove(&address);
        }
        let possible = (address as i64) < 0 || cpu.translate(address) == Some(address);
        possible && {
            self.breakpoints.insert(address);
            true
        }
    }
}

/// One instruction. `false` at an exit.
fn step(cpu: &mut dyn GuestCpu) -> bool {
    let Some(cpu) = cpu.for_debugger() else {
        return false;
    };
    loop {
        match cpu.step() {
            Ok(None) => return true,
            Ok(Some(Exit::Kicked)) => {}
            // What failed here fails again when it counts.
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

fn snapshot(cpu: &mut dyn GuestCpu) -> Step<Snapshot> {
    let general = cpu.registers()?;
    let (system, float) = match cpu.for_debugger() {
        Some(cpu) => (cpu.system_registers()?, cpu.float_registers()?),
        None => Default::default(),
    };
    Ok(Snapshot {
        general,
        system,
        float,
    })
}

/// Memory through the guest's page tables, up to the first page that is not mapped.
fn read(cpu: &mut dyn GuestCpu, memory: &GuestRam, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let linear = address.wrapping_add(done as u64);
        let in_page = (PAGE - linear as usize % PAGE).min(len - done);
        let part = &mut bytes[done..done + in_page];
        let known = cpu
            .translate(linear)
            .is_some_and(|physical| memory.read_slice(part, GuestAddress(physical)).is_ok());
        if !known {
            break;
        }
        done += in_page;
    }
    bytes.truncate(done);
    bytes
}
