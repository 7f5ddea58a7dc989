//! When the driver hears of frames that were sent.
//!
//! The card sends a frame at once, so every notification could end with an interrupt. But the
//! driver only wants its buffers back, and Linux takes them back whenever it looks for received
//! frames too: a server that answers requests never needs to be told. So an interrupt that the
//! driver wants is owed for a while. It comes when that is over, when much was sent, and when the
//! guest halts after it sent more than one frame, because then it may wait for just that.
//!
//! Time is the guest's, of its last tick: nothing here depends on what the log does not have.

use serde::{Deserialize, Serialize};

use crate::devices::guest_time::MAX_GUEST_TIME;

/// How long an interrupt is owed, in nanoseconds of guest time: two ticks of Debian's kernel, so
/// that one of them finds the buffers taken back.
const PATIENCE: u64 = 10_000_000;
/// What is sent by then is told at once.
const MUCH: u32 = 8;
/// The same when the guest halts.
const MUCH_WHEN_IDLE: u32 = 2;

/// The interrupts of the transmit queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Moderation {
    /// Guest time of the last tick.
    time: u64,
    owed: Option<Owed>,
}

/// An interrupt that is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    /// Guest time at which it comes.
    deadline: u64,
    /// What was sent since it is owed.
    weight: u32,
}

impl Moderation {
    /// Whether a guest could have brought this about; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let deadline = self.owed.as_ref().map_or(0, |owed| owed.deadline);
        if self.time.max(deadline) > MAX_GUEST_TIME {
            return Err("a time that no guest reaches");
        }
        if self.owed.as_ref().is_some_and(|owed| owed.weight >= MUCH) {
            return Err("an interrupt is owed for more than that is done for");
        }
        Ok(())
    }

    /// Something was sent, frames that are yet to be cut counted twice; `wanted` if the driver
    /// wants to hear of it. Whether the interrupt comes now.
    pub(super) fn sent(&mut self, weight: u32, wanted: bool) -> bool {
        if self.owed.is_none() && !wanted {
            return false;
        }
        let deadline = self.time.saturating_add(PATIENCE);
        let owed = self.owed.get_or_insert(Owed {
            deadline,
            weight: 0,
        });
        owed.weight = owed.weight.saturating_add(weight);
        self.pay_beyond(MUCH)
    }

    /// The guest halted. Whether the interrupt comes now.
    pub(super) fn idle(&mut self) -> bool {
        self.pay_beyond(MUCH_WHEN_IDLE)
    }

    fn pay_beyond(&mut self, weight: u32) -> bool {
        self.owed.take_if(|owed| owed.weight >= weight).is_some()
    }

    /// It is `now`; the driver still wants to hear of what was sent if `wanted` says so. Whether
    /// the interrupt comes now.
    pub(super) fn tick(&mut self, now: u64, wanted: impl FnOnce() -> bool) -> bool {
        self.time = now;
        if self.owed.is_some() && !wanted() {
            self.owed = None;
        }
        self.owed.take_if(|owed| owed.deadline <= now).is_some()
    }

    /// Guest time at which an interrupt comes that is owed.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.owed.as_ref().map(|owed| owed.deadline)
    }

    /// Nothing is owed any more.
    pub(super) fn forget(&mut self) {
        self.owed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owing(weight: u32) -> Moderation {
        let mut moderation = Moderation::default();
        moderation.tick(1000, || unreachable!("nothing is owed"));
        assert!(!moderation.sent(weight, true));
        moderation
    }

    #[test]
    fn an_interrupt_comes_when_its_time_is_over() {
        let mut moderation = owing(1);
        let deadline = moderation.deadline().expect("it is owed");
        assert_eq!(deadline, 1000 + PATIENCE);
        assert!(!moderation.tick(deadline - 1, || true));
        assert!(moderation.tick(deadline, || true));
        assert_eq!(moderation.deadline(), None, "and once");
        assert!(!moderation.tick(deadline + PATIENCE, || true));
    }

    #[test]
    fn a_driver_that_took_its_buffers_back_is_not_interrupted() {
        let mut moderation = owing(1);
        assert!(!moderation.tick(1000 + 2 * PATIENCE, || false));
        assert_eq!(moderation.deadline(), None);
        assert!(!moderation.idle());
    }

    #[test]
    fn what_nobody_wants_to_hear_is_not_owed() {
        let mut moderation = Moderation::default();
        assert!(!moderation.sent(MUCH, false));
        assert_eq!(moderation.deadline(), None);
    }

    #[test]
    fn much_is_told_at_once_and_less_than_that_to_an_idle_guest() {
        let mut moderation = owing(MUCH - 1);
        assert!(moderation.sent(1, false));
        assert_eq!(moderation.deadline(), None);
        assert!(!owing(MUCH_WHEN_IDLE - 1).idle());
        assert!(owing(MUCH_WHEN_IDLE).idle());
    }

    #[test]
    fn a_guest_at_the_end_of_time_does_no_harm() {
        let mut moderation = Moderation::default();
        moderation.tick(u64::MAX, || true);
        assert!(!moderation.sent(1, true));
        assert!(moderation.check().is_err());
    }
}
