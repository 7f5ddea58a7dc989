//! What is around the guest: time, a network, a keyboard, and a disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ftvm_vmm::devices::virtio::net::frame::{Frame, MAX_BYTES};
use ftvm_vmm::devices::{Appetite, ClockNeed, Devices, Input, Output};
use ftvm_vmm::disk::{DiskCompletion, DiskError, DiskOp, DiskRequest, MAX_TRANSFER};
use ftvm_vmm::engine::{EventSource, Interruption, Moment, OutputGate, Step, Waited};
use ftvm_vmm::ram::GuestRam;
use logging_channel::entry::{Lsn, OutputMarker, ShutdownReason};
#[cfg(test)]
use vm_memory::GuestAddress;

use super::new_devices;

/// Questions and outputs that an exit may have at most: a machine that has more than any work at one
/// exit is held there.
const MOST_AT_AN_EXIT: u32 = 2000;
/// Inputs that a halted guest gets, without an interrupt.
const MOST_WHILE_HALTED: u32 = 100;
/// What the host may have of writes to the disk: what the device lets be, and the last one.
const MOST_IN_FLIGHT: usize = (8 << 20) + MAX_TRANSFER as usize;
const MOST_REQUESTS: usize = 256;
/// Bytes of a state, with a full backlog of the largest frames.
const MOST_STATE: usize = 1 << 23;
/// How long a look at the world takes, in nanoseconds.
const LOOK: u64 = 1000;

pub(crate) struct World {
    memory: GuestRam,
    now: u64,
    /// So much has happened at this exit already.
    at_this_exit: u32,
    pub(crate) frames: VecDeque<Frame>,
    /// Frames come faster than they are taken.
    pub(crate) flood: Option<Frame>,
    pub(crate) typed: VecDeque<Vec<u8>>,
    /// Requests that the disk has yet to do.
    in_flight: Vec<DiskRequest>,
    /// Number of the last request that the disk got; 0, which none has, before the first.
    last_request: u64,
    done: VecDeque<DiskCompletion>,
    /// A guest that the host stops is at an exit then.
    pub(crate) stops: bool,
}

impl World {
    pub(crate) fn new(memory: GuestRam) -> Self {
        Self {
            memory,
            now: 1000,
            at_this_exit: 0,
            frames: VecDeque::new(),
            flood: None,
            typed: VecDeque::new(),
            in_flight: Vec::new(),
            last_request: 0,
            done: VecDeque::new(),
            stops: false,
        }
    }

    pub(crate) fn pass(&mut self, nanos: u64) {
        // A hundred years are enough.
        self.now = (self.now.saturating_add(nanos)).min(3_000_000_000_000_000_000);
    }

    /// The disk does one of its requests, and perhaps badly.
    pub(crate) fn serve(&mut self, which: u8, outcome: u8) {
        if self.in_flight.is_empty() {
            // All that the disk got is answered: this is an answer that nobody waits for. Not one to
            // a request yet to come, which no disk gives: the device would take it for the answer,
            // and the request would then be counted here for ever as one in flight.
            let (id, result) = (self.last_request, Ok(Vec::new()));
            self.done.push_back(DiskCompletion::new(id, result));
            return;
        }
        let which = usize::from(which) % self.in_flight.len();
        let DiskRequest { id, op } = self.in_flight.remove(which);
        let result = match (outcome % 8, op) {
            (0, _) => Err(DiskError::Io),
            (1, _) => Err(DiskError::Unsupported),
            (2, _) => Ok(vec![1; 512]),
            (_, DiskOp::Read { len, .. }) => Ok(vec![outcome; len as usize]),
            _ => Ok(Vec::new()),
        };
        self.done.push_back(DiskCompletion::new(id, result));
    }

    fn count(&mut self, what: &str) {
        self.at_this_exit += 1;
        assert!(
            self.at_this_exit <= MOST_AT_AN_EXIT,
            "held at an exit by {what}"
        );
    }

    fn next(&mut self, appetite: &Appetite) -> Option<Input> {
        self.count("inputs");
        self.now += LOOK;
        if appetite.timer_deadline.is_some_and(|at| at <= self.now) {
            return Some(Input::Tick(self.now));
        }
        if appetite.drops_frames {
            self.frames.clear();
        }
        if appetite.disk
            && let Some(completion) = self.done.pop_front()
        {
            return Some(Input::Disk(completion));
        }
        if appetite.frame
            && let Some(frame) = self.frames.pop_front().or_else(|| self.flood.clone())
        {
            return Some(Input::Frame(frame));
        }
        if appetite.typed {
            return self.typed.pop_front().map(Input::Typed);
        }
        None
    }

    /// Another host takes the machine over as it is.
    fn check(&self, devices: &Devices) {
        let saved = devices.save();
        assert!(
            saved.len() <= MOST_STATE,
            "a state of {} bytes",
            saved.len()
        );
        let mut other = new_devices(&self.memory);
        if let Err(error) = other.load(&saved) {
            panic!("no state for another host: {error}");
        }
        assert_eq!(other.save(), saved);
    }
}

pub(crate) struct Source(pub(crate) Rc<RefCell<World>>);

impl EventSource for Source {
    fn at_exit(&mut self, _: &mut Moment<'_>) -> Step<()> {
        let mut world = self.0.borrow_mut();
        world.at_this_exit = 0;
        world.pass(LOOK);
        Ok(())
    }

    fn clock(&mut self, _: &mut Moment<'_>, need: ClockNeed) -> Step<u64> {
        let mut world = self.0.borrow_mut();
        world.pass(1);
        Ok(match need {
            ClockNeed::Wall => 1_700_000_000_000_000_000 + world.now,
            ClockNeed::Tsc | ClockNeed::Monotonic => world.now,
        })
    }

    fn poll(&mut self, _: &mut Moment<'_>, appetite: &Appetite) -> Step<Option<Input>> {
        Ok(self.0.borrow_mut().next(appetite))
    }

    fn wait(&mut self, _: &mut Moment<'_>, appetite: &Appetite) -> Step<Waited> {
        let mut world = self.0.borrow_mut();
        if let Some(deadline) = appetite.timer_deadline {
            world.now = world.now.max(deadline);
        }
        if world.at_this_exit > MOST_WHILE_HALTED {
            return Err(Interruption::Stop); // it may sleep for ever
        }
        let input = world.next(appetite).ok_or(Interruption::Stop)?;
        Ok(Waited::Input(input))
    }

    fn window(&mut self, _: &mut Moment<'_>, _: Option<u8>) -> Step<()> {
        Ok(())
    }

    fn output(&mut self, _: &mut Moment<'_>, _: OutputMarker) -> Step<Lsn> {
        Ok(Lsn(1))
    }

    fn kicked(&mut self, _: &mut Moment<'_>, _: &Appetite) -> Step<bool> {
        let mut world = self.0.borrow_mut();
        world.at_this_exit = 0;
        Ok(world.stops)
    }

    fn ended(&mut self, at: &mut Moment<'_>, _: ShutdownReason) -> Step<()> {
        self.0.borrow().check(at.devices);
        Ok(())
    }
}

pub(crate) struct Gate(pub(crate) Rc<RefCell<World>>);

impl OutputGate for Gate {
    fn submit(&mut self, output: Output, _: Option<Lsn>) {
        let mut world = self.0.borrow_mut();
        world.count("outputs");
        match output {
            Output::Frame(frame) => assert!(frame.bytes.len() <= MAX_BYTES),
            Output::Console(bytes) => assert!(bytes.len() <= 256),
            Output::Offloads(_) => {}
            Output::Disk(request) => {
                world.last_request = request.id;
                world.in_flight.push(request);
                let data = |request: &DiskRequest| match &request.op {
                    DiskOp::Write { data, .. } => data.len(),
                    _ => 0,
                };
                let bytes: usize = world.in_flight.iter().map(data).sum();
                assert!(bytes <= MOST_IN_FLIGHT, "{bytes} bytes wait for the disk");
                // Completions that were done and not taken are at most as many.
                let requests = world.in_flight.len();
                assert!(
                    requests <= MOST_REQUESTS,
                    "{requests} requests wait for the disk"
                );
            }
        }
    }
}

#[test]
fn an_idle_disk_answers_no_request_that_is_yet_to_come() {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
    let world = Rc::new(RefCell::new(World::new(memory)));
    let mut gate = Gate(world.clone());
    let answered = || -> Vec<u64> {
        let mut world = world.borrow_mut();
        world.serve(0, 3);
        world.done.drain(..).map(|done| done.id).collect()
    };
    for id in 1..=3 {
        // The device numbers its requests from 1.
        assert!(answered().iter().all(|early| *early < id));
        let op = DiskOp::Flush;
        gate.submit(Output::Disk(DiskRequest { id, op }), None);
        assert_eq!(answered(), [id]);
    }
}
