//! Inputs from this host: its clock, its network, its console, and the disk.

use std::cell::RefCell;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::openings::{Kind, Opening, Openings};
use super::{GuestClock, Waits};
use crate::bell::Bell;
use crate::devices::virtio::net::frame::Frame;
use crate::devices::{Appetite, ClockNeed, Input};
use crate::disk::DiskCompletion;
use crate::engine::{Interruption, Step};

/// A request to the running guest's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// End the run at the next deterministic exit.
    Stop,
}

/// One kind of message to the running guest's thread: both ends, so that it never closes. A
/// message has the time at which it was handed over with it.
#[derive(Debug)]
pub struct Lane<T> {
    sender: Sender<(Instant, T)>,
    receiver: Receiver<(Instant, T)>,
    /// Rung at every message.
    bell: Bell,
}

impl<T> Clone for Lane<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            receiver: self.receiver.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T> Lane<T> {
    fn bounded(capacity: usize, bell: &Bell) -> Self {
        let (sender, receiver) = crossbeam_channel::bounded(capacity);
        let bell = bell.clone();
        Self {
            sender,
            receiver,
            bell,
        }
    }

    /// Hands a message over unless the lane is full.
    pub fn try_push(&self, message: T) {
        let _ = self.sender.try_send((Instant::now(), message));
        self.bell.ring();
    }

    /// Hands a message over; waits while the lane is full.
    pub fn push(&self, message: T) {
        self.sender
            .send((Instant::now(), message))
            .expect("the receiver lives in the same lane");
        self.bell.ring();
    }

    /// Takes the next message, if there is one. What it waited for is noted in `waits`.
    fn take(&self, waits: Option<&Waits>) -> Option<T> {
        let (since, message) = self.receiver.try_recv().ok()?;
        if let Some(waits) = waits {
            waits.note(since.elapsed());
        }
        Some(message)
    }
}

/// The lanes by which I/O threads hand inputs to the guest's thread.
#[derive(Debug, Clone)]
pub struct Lanes {
    /// Frames from the client network.
    pub frames: Lane<Frame>,
    /// Bytes typed at the console.
    pub typed: Lane<Vec<u8>>,
    /// Completions of requests to the disk.
    pub disk: Lane<DiskCompletion>,
    /// Requests to the run itself.
    pub control: Lane<Control>,
    /// How long frames and typed bytes waited for the guest.
    pub waits: Waits,
    /// Rung at every message of any of them.
    bell: Bell,
}

impl Default for Lanes {
    fn default() -> Self {
        let bell = Bell::default();
        Self {
            frames: Lane::bounded(256, &bell),
            typed: Lane::bounded(64, &bell),
            disk: Lane::bounded(256, &bell),
            control: Lane::bounded(4, &bell),
            waits: Waits::default(),
            bell,
        }
    }
}

/// The outside world, as a recorder asks for it.
pub trait OutsideWorld {
    /// The value of a clock.
    fn clock(&self, need: ClockNeed) -> u64;

    /// The next input that is there already and that the guest can take. Asked until there is
    /// none. Inputs may be kept for an exit where their interrupt goes in; `opening` says whether it
    /// does here.
    ///
    /// # Errors
    /// [`Interruption::Stop`] when asked to.
    fn poll(&self, appetite: &Appetite, opening: Opening) -> Step<Option<Input>>;

    /// Whether [`OutsideWorld::poll`] has something to say at an open exit.
    fn is_ready(&self, appetite: &Appetite) -> bool;

    /// Waits for the next input that the guest can take.
    ///
    /// # Errors
    /// [`Interruption::Stop`] when asked to.
    fn wait(&self, appetite: &Appetite) -> Step<Input>;
}

/// The outside world as this host sees it.
pub struct LiveInputs {
    clock: GuestClock,
    lanes: Lanes,
    openings: RefCell<Openings>,
}

impl LiveInputs {
    /// Inputs from these lanes, with time from `clock`.
    #[must_use]
    pub fn new(clock: GuestClock, lanes: Lanes) -> Self {
        Self {
            clock,
            lanes,
            openings: RefCell::default(),
        }
    }

    /// Whether there is an input of this kind that the guest can take.
    fn has(&self, kind: Kind, appetite: &Appetite, now: u64) -> bool {
        match kind {
            Kind::Timer => appetite.timer_deadline.is_some_and(|at| now >= at),
            Kind::Disk => !self.lanes.disk.receiver.is_empty(),
            Kind::Frame => appetite.frame && !self.lanes.frames.receiver.is_empty(),
            Kind::Typed => appetite.typed && !self.lanes.typed.receiver.is_empty(),
        }
    }

    fn take(&self, kind: Kind, now: u64) -> Option<Input> {
        let Lanes {
            disk,
            frames,
            typed,
            waits,
            ..
        } = &self.lanes;
        match kind {
            Kind::Timer => Some(Input::Tick(now)),
            Kind::Disk => disk.take(None).map(Input::Disk),
            Kind::Frame => frames.take(Some(waits)).map(Input::Frame),
            Kind::Typed => typed.take(Some(waits)).map(Input::Typed),
        }
    }
}

impl OutsideWorld for LiveInputs {
    fn clock(&self, need: ClockNeed) -> u64 {
        self.clock.read(need)
    }

    fn poll(&self, appetite: &Appetite, opening: Opening) -> Step<Option<Input>> {
        if let Some(Control::Stop) = self.lanes.control.take(None) {
            return Err(Interruption::Stop);
        }
        let now = self.clock.monotonic_nanos();
        let mut openings = self.openings.borrow_mut();
        openings.look(now, opening);
        for kind in openings.order() {
            if !self.has(kind, appetite, now) {
                openings.none(kind);
            } else if openings.admits(kind, now, opening)
                && let Some(input) = self.take(kind, now)
            {
                openings.give(kind);
                return Ok(Some(input));
            }
        }
        openings.leave();
        Ok(None)
    }

    fn is_ready(&self, appetite: &Appetite) -> bool {
        let now = self.clock.monotonic_nanos();
        !self.lanes.control.receiver.is_empty()
            || Kind::ALL.iter().any(|&kind| self.has(kind, appetite, now))
    }

    fn wait(&self, appetite: &Appetite) -> Step<Input> {
        let input = loop {
            if let Some(input) = self.poll(appetite, Opening::Open)? {
                break input;
            }
            let deadline = appetite.timer_deadline;
            self.lanes
                .bell
                .wait(deadline.map(|nanos| self.clock.instant_of(nanos)));
        };
        let mut openings = self.openings.borrow_mut();
        openings.wake(self.clock.monotonic_nanos());
        Ok(input)
    }
}
