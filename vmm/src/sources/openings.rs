//! At which exits the guest gets inputs that wait for it.
//!
//! Where the processor can be interrupted and no other interrupt waits, an exit is *open*: the
//! interrupt of an input goes in right there. At any other it takes one exit more, the interrupt
//! window. A server makes open exits all the time: with every frame that it sends, and when it
//! halts. So an input that finds an exit closed waits for the next open one, while there is reason
//! to think that it is near, and where inputs of two kinds meet at an open one, the second waits for
//! the next, and is the first there. A guest that also computes, and has to be stopped for its
//! inputs, gets them at the first exit that it makes: the next may be far.
//!
//! On a host where exits are quick, the guest's ticks are rare among them, and this changes little.
//! Where they are slow, there is a tick with every request, and a window with every tick.

/// No input waits longer than this for an open exit, in nanoseconds: a tick of Debian's kernel.
const LIMIT: u64 = 4_000_000;

/// An exit counts for one part in this many of the average distance between open ones.
const MEMORY: u64 = 8;

/// An open exit is near until the last is so many average distances ago.
const NEAR: u64 = 2;

/// How long a guest has to make exits by itself, in nanoseconds, before anything waits for one.
const TRUST: u64 = 1_000_000_000;

/// What an input finds at an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Its interrupt would go in.
    Open,
    /// Its interrupt would have to wait for the window.
    Closed,
    /// The guest was stopped there for its inputs.
    Forced,
}

/// Inputs that share an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Guest time has reached a timer's deadline.
    Timer,
    /// A request to the disk was completed.
    Disk,
    /// A frame arrived.
    Frame,
    /// Bytes were typed.
    Typed,
}

impl Kind {
    /// All of them, in the order in which they are given where none has waited.
    pub(super) const ALL: [Self; 4] = [Self::Timer, Self::Disk, Self::Frame, Self::Typed];
}

/// Decides which inputs are given at an exit. All times are guest time in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// The present exit was looked at.
    seen: bool,
    /// Of which kind the inputs are that were given at the present exit.
    given: Option<Kind>,
    /// When the last open exit was.
    last: Option<u64>,
    /// Time from one open exit to the next, on average.
    distance: u64,
    /// When the guest was last stopped for its inputs.
    forced: Option<u64>,
    /// Since when there are inputs that wait for an open exit, by kind.
    waiting: [Option<u64>; Kind::ALL.len()],
}

impl Openings {
    /// The guest stands at an exit.
    pub(super) fn look(&mut self, now: u64, opening: Opening) {
        if std::mem::replace(&mut self.seen, true) {
            return;
        }
        match opening {
            Opening::Closed => {}
            Opening::Forced => self.forced = Some(now),
            Opening::Open => {
                if let Some(last) = self.last.replace(now) {
                    let passed = now.saturating_sub(last).min(LIMIT);
                    self.distance = self.distance - self.distance / MEMORY + passed / MEMORY;
                }
            }
        }
    }

    /// The kinds in the order in which they are to be given: those that wait longest first.
    pub(super) fn order(&self) -> [Kind; Kind::ALL.len()] {
        let mut order = Kind::ALL;
        order.sort_by_key(|&kind| self.waiting[kind as usize].unwrap_or(u64::MAX));
        order
    }

    /// Whether inputs of this kind, which there are, are given at the present exit.
    pub(super) fn admits(&mut self, kind: Kind, now: u64, opening: Opening) -> bool {
        if opening != Opening::Closed || self.given == Some(kind) {
            return true;
        }
        let since = *self.waiting[kind as usize].get_or_insert(now);
        let within = |time: u64, limit: u64| now.saturating_sub(time) < limit;
        let is_near = (self.last).is_some_and(|last| within(last, NEAR * self.distance));
        let is_trusted = !(self.forced).is_some_and(|forced| within(forced, TRUST));
        !(is_near && is_trusted && within(since, LIMIT))
    }

    /// One of this kind was given.
    pub(super) fn give(&mut self, kind: Kind) {
        self.given = Some(kind);
        self.none(kind);
    }

    /// There is none of this kind.
    pub(super) fn none(&mut self, kind: Kind) {
        self.waiting[kind as usize] = None;
    }

    /// The guest goes on from the present exit.
    pub(super) fn leave(&mut self) {
        self.seen = false;
        self.given = None;
    }

    /// The guest was woken at its present exit, a halt: how long it slept is no distance.
    pub(super) fn wake(&mut self, now: u64) {
        self.last = Some(now);
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::Opening::{Closed, Forced, Open};
    use super::*;

    const STEP: u64 = 100_000;

    /// A guest that has made open exits every [`STEP`] up to `now`.
    fn server(now: u64) -> Openings {
        let mut openings = Openings::default();
        for n in (0..100).rev() {
            openings.look(now - n * STEP, Open);
            openings.leave();
        }
        openings
    }

    #[test]
    fn an_input_waits_at_a_closed_exit_while_an_open_one_is_near() {
        let now = 1_000_000_000;
        let mut openings = server(now);
        let closed = now + STEP / 2;
        openings.look(closed, Closed);
        assert!(!openings.admits(Kind::Frame, closed, Closed));
        openings.leave();
        let open = now + STEP;
        openings.look(open, Open);
        assert!(openings.admits(Kind::Frame, open, Open));
    }

    #[test]
    fn an_input_does_not_wait_for_a_guest_that_has_ceased_to_make_open_exits() {
        let now = 1_000_000_000;
        let mut openings = server(now);
        let late = now + NEAR * STEP;
        openings.look(late, Closed);
        assert!(openings.admits(Kind::Frame, late, Closed));
    }

    #[test]
    fn an_input_does_not_wait_for_a_guest_of_which_nothing_is_known() {
        let mut openings = Openings::default();
        openings.look(5, Closed);
        assert!(openings.admits(Kind::Timer, 5, Closed));
    }

    #[test]
    fn no_input_waits_beyond_the_limit() {
        let now = 1_000_000_000;
        let mut openings = Openings::default();
        for n in (0..100).rev() {
            openings.look(now - n * LIMIT, Open);
            openings.leave();
        }
        assert!(!openings.admits(Kind::Disk, now + 1, Closed));
        assert!(!openings.admits(Kind::Disk, now + LIMIT, Closed));
        assert!(openings.admits(Kind::Disk, now + 1 + LIMIT, Closed));
    }

    #[test]
    fn of_two_kinds_at_an_open_exit_the_second_is_the_first_at_the_next() {
        let now = 1_000_000_000;
        let mut openings = server(now);
        openings.look(now + STEP, Open);
        assert_eq!(openings.order()[0], Kind::Timer);
        assert!(openings.admits(Kind::Timer, now + STEP, Open));
        openings.give(Kind::Timer);
        // Its interrupt waits now, so that the exit is not open any more.
        assert!(!openings.admits(Kind::Frame, now + STEP, Closed));
        openings.leave();
        assert_eq!(openings.order()[0], Kind::Frame);
        openings.look(now + 2 * STEP, Open);
        assert!(openings.admits(Kind::Frame, now + 2 * STEP, Open));
        openings.give(Kind::Frame);
        assert!(openings.admits(Kind::Frame, now + 2 * STEP, Closed));
        assert!(!openings.admits(Kind::Timer, now + 2 * STEP, Closed));
    }

    #[test]
    fn a_sleep_is_no_distance_between_exits() {
        let now = 1_000_000_000;
        let mut openings = server(now);
        let woken = now + 1000 * STEP;
        openings.wake(woken);
        let closed = woken + STEP;
        openings.look(closed, Closed);
        assert!(!openings.admits(Kind::Frame, closed, Closed));
        assert!(openings.admits(Kind::Frame, closed + NEAR * STEP, Closed));
    }

    #[test]
    fn nothing_waits_where_a_guest_was_stopped_for_its_inputs_not_long_ago() {
        let now = 1_000_000_000;
        let mut openings = server(now);
        openings.look(now + 1, Forced);
        assert!(openings.admits(Kind::Timer, now + 1, Forced));
        openings.give(Kind::Timer);
        openings.leave();
        openings.look(now + 2, Closed);
        assert!(openings.admits(Kind::Frame, now + 2, Closed));
        openings.leave();
        let trusted = now + 1 + TRUST;
        openings.look(trusted - 1, Open);
        openings.leave();
        openings.look(trusted, Closed);
        openings.none(Kind::Frame);
        assert!(!openings.admits(Kind::Frame, trusted, Closed));
    }
}
