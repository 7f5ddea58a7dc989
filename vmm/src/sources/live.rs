//! Inputs from this host: its clock, its network, its console, and the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::{GuestClock, Waits};
use crate::bell::Bell;
use crate::devices::virtio::net::frame::Frame;
use crate::devices::{Appetite, ClockNeed, Input};
use crate::disk::DiskCompletion;
use crate::engine::{Interruption, Step};

/// How often is looked meanwhile whether a wait for room is over.
const LOOK: Duration = Duration::from_millis(20);

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

    /// Hands a message over; waits while the lane is full, unless nobody takes anything, as `is_over` says.
    pub fn push_unless(&self, message: T, is_over: impl Fn() -> bool) {
        let mut message = (Instant::now(), message);
        loop {
            let patience = if is_over() { Duration::ZERO } else { LOOK };
            match self.sender.send_timeout(message, patience) {
                Ok(()) => return self.bell.ring(),
                Err(_) if is_over() => return,
                Err(full) => message = full.into_inner(),
            }
        }
    }

    /// Hands a message over: whether there was room for it within `patience`.
    pub fn push_within(&self, message: T, patience: Duration) -> bool {
        let sent = self
            .sender
            .send_timeout((Instant::now(), message), patience);
        self.bell.ring();
        sent.is_ok()
    }

    /// [`Lane::push`] for who knows nothing of lanes.
    pub fn pusher(&self) -> impl Fn(T) + use<T> {
        let lane = self.clone();
        move |message| lane.push(message)
    }

    /// Drops the messages that are there.
    fn clear(&self) {
        let there = self.receiver.len();
        self.receiver.try_iter().take(there).for_each(drop);
    }

    /// Takes the next message, if there is one. What it waited for is noted in `waits`.
    pub(crate) fn take(&self, waits: Option<&Waits>) -> Option<T> {
        let (since, message) = self.receiver.try_recv().ok()?;
        if let Some(waits) = waits {
            waits.note(since.elapsed());
        }
        Some(message)
    }
}

/// Has the guest's thread look around for something that is no input: whether a backup has come, or has
/// taken the guest's state over. A handle.
#[derive(Debug, Clone)]
pub struct LookOut {
    wanted: Arc<AtomicBool>,
    bell: Bell,
}

impl LookOut {
    /// The guest's thread is to look around.
    pub fn look(&self) {
        self.wanted.store(true, Ordering::Release);
        self.bell.ring();
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.is_wanted() && self.wanted.swap(false, Ordering::Acquire)
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
    /// For what is none of these.
    pub look: LookOut,
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
            look: LookOut {
                wanted: Arc::default(),
                bell: bell.clone(),
            },
            waits: Waits::default(),
            bell,
        }
    }
}

/// The outside world, as a recorder asks for it.
pub trait OutsideWorld {
    /// The value of a clock.
    fn clock(&self, need: ClockNeed) -> u64;

    /// The next input that is there already and that the guest can take.
    ///
    /// # Errors
    /// [`Interruption::Stop`] when asked to.
    fn poll(&self, appetite: &Appetite) -> Step<Option<Input>>;

    /// Whether [`OutsideWorld::poll`] has something to say.
    fn is_ready(&self, appetite: &Appetite) -> bool;

    /// Waits for the next input that the guest can take.
    ///
    /// # Errors
    /// [`Interruption::Stop`] when asked to.
    fn wait(&self, appetite: &Appetite) -> Step<Input>;

    /// The same, or `None` when something else wants to be looked at.
    ///
    /// # Errors
    /// [`Interruption::Stop`] when asked to.
    fn wait_or_look(&self, appetite: &Appetite) -> Step<Option<Input>> {
        self.wait(appetite).map(Some)
    }
}

/// The outside world as this host sees it.
pub struct LiveInputs {
    clock: GuestClock,
    lanes: Lanes,
}

impl LiveInputs {
    /// Inputs from these lanes, with time from `clock`.
    #[must_use]
    pub fn new(clock: GuestClock, lanes: Lanes) -> Self {
        Self { clock, lanes }
    }

    /// The next input.
    fn take(&self, appetite: &Appetite) -> Step<Option<Input>> {
        if let Some(Control::Stop) = self.lanes.control.take(None) {
            return Err(Interruption::Stop);
        }
        if let Some(deadline) = appetite.timer_deadline {
            let now = self.clock.monotonic_nanos();
            if now >= deadline {
                return Ok(Some(Input::Tick(now)));
            }
        }
        if appetite.disk
            && let Some(completion) = self.lanes.disk.take(None)
        {
            return Ok(Some(Input::Disk(completion)));
        }
        if appetite.drops_frames {
            self.lanes.frames.clear();
        }
        if appetite.frame
            && let Some(frame) = self.lanes.frames.take(Some(&self.lanes.waits))
        {
            return Ok(Some(Input::Frame(frame)));
        }
        if appetite.typed
            && let Some(bytes) = self.lanes.typed.take(Some(&self.lanes.waits))
        {
            return Ok(Some(Input::Typed(bytes)));
        }
        Ok(None)
    }
}

impl OutsideWorld for LiveInputs {
    fn clock(&self, need: ClockNeed) -> u64 {
        self.clock.read(need)
    }

    fn poll(&self, appetite: &Appetite) -> Step<Option<Input>> {
        // Whoever polls looks at everything.
        self.lanes.look.take();
        self.take(appetite)
    }

    fn is_ready(&self, appetite: &Appetite) -> bool {
        let due = |deadline| self.clock.monotonic_nanos() >= deadline;
        self.lanes.look.is_wanted()
            || !self.lanes.control.receiver.is_empty()
            || appetite.timer_deadline.is_some_and(due)
            || (appetite.disk && !self.lanes.disk.receiver.is_empty())
            || (appetite.frame && !self.lanes.frames.receiver.is_empty())
            || (appetite.typed && !self.lanes.typed.receiver.is_empty())
    }

    fn wait(&self, appetite: &Appetite) -> Step<Input> {
        loop {
            if let Some(input) = self.wait_or_look(appetite)? {
                return Ok(input);
            }
        }
    }

    fn wait_or_look(&self, appetite: &Appetite) -> Step<Option<Input>> {
        loop {
            let look = self.lanes.look.take();
            let input = self.take(appetite)?;
            if look || input.is_some() {
                return Ok(input);
            }
            let deadline = appetite.timer_deadline;
            self.lanes
                .bell
                .wait(deadline.map(|nanos| self.clock.instant_of(nanos)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise whoever floods the network fills the log of a guest that has no driver yet, and
    /// holds it up.
    #[test]
    fn frames_for_a_card_that_nobody_set_up_are_no_inputs() {
        let lanes = Lanes::default();
        let live = LiveInputs::new(GuestClock::starting_now(), lanes.clone());
        let frame = || Frame::from(vec![7; 60]);
        let nobody = Appetite {
            drops_frames: true,
            ..Appetite::default()
        };
        for _ in 0..300 {
            lanes.frames.try_push(frame());
        }
        assert!(!live.is_ready(&nobody));
        assert!(matches!(live.poll(&nobody), Ok(None)));
        let driver = Appetite {
            frame: true,
            ..Appetite::default()
        };
        assert!(matches!(live.poll(&driver), Ok(None)), "they are gone");
        lanes.frames.try_push(frame());
        assert!(matches!(live.poll(&driver), Ok(Some(Input::Frame(_)))));
    }

    #[test]
    fn a_full_lane_holds_nobody_up_once_nobody_takes_anything() {
        let lane = Lane::bounded(1, &Bell::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let waits = std::thread::spawn({
            let (lane, is_over) = (lane.clone(), is_over.clone());
            move || {
                for message in [1, 2] {
                    lane.push_unless(message, || is_over.load(Ordering::Acquire));
                }
            }
        });
        is_over.store(true, Ordering::Release);
        waits.join().expect("it does not wait for ever");
        assert_eq!([lane.take(None), lane.take(None)], [Some(1), None]);
    }

    #[test]
    fn completions_wait_for_a_machine_that_takes_none() {
        let lanes = Lanes::default();
        let live = LiveInputs::new(GuestClock::starting_now(), lanes.clone());
        let result = Ok(Vec::new());
        lanes.disk.push(DiskCompletion::new(1, result));
        let nothing = Appetite::default();
        assert!(!live.is_ready(&nothing));
        assert!(matches!(live.poll(&nothing), Ok(None)));
        let disk = Appetite {
            disk: true,
            ..nothing
        };
        assert!(live.is_ready(&disk));
        assert!(matches!(live.poll(&disk), Ok(Some(Input::Disk(_)))));
    }
}
