//! How often a backup that differs is given the whole state.

use std::collections::VecDeque;
use std::time::Duration;

/// Divergences are counted over this time.
const WINDOW: Duration = Duration::from_secs(600);

/// So many of them in that time are no accident: something makes the guest differ again and again.
pub const MANY: usize = 3;

/// The guest keeps all but one part in this many of its time.
const GUEST_SHARE: u32 = 10;

/// Counts divergences, and spaces repairs out once there are many. Time is an argument: since whenever
/// the caller likes, as long as it is the same.
#[derive(Debug, Default)]
pub struct Repairs {
    divergences: VecDeque<Duration>,
    /// When the last repair began.
    begun: Option<Duration>,
    /// For how long the guest stood still for it.
    cost: Duration,
}

impl Repairs {
    /// The backup differs at `now`. How often it did lately.
    pub fn diverged(&mut self, now: Duration) -> usize {
        let is_old = |at: &Duration| now.saturating_sub(*at) > WINDOW;
        while self.divergences.front().is_some_and(is_old) {
            self.divergences.pop_front();
        }
        self.divergences.push_back(now);
        self.divergences.len()
    }

    /// How long the next repair has to wait from `now` on.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        match self.begun {
            Some(begun) if self.divergences.len() >= MANY => {
                (begun + self.cost * GUEST_SHARE).saturating_sub(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// A repair begins.
    pub fn begins(&mut self, now: Duration) {
        self.begun = Some(now);
        self.cost = Duration::ZERO;
    }

    /// The guest stood still for it.
    pub fn costs(&mut self, time: Duration) {
        self.cost += time;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A guest that differs as soon as it was repaired, with repairs that run for some time
        /// during a part of which the guest stands still.
        #[test]
        fn the_guest_keeps_its_time(
            steps in prop::collection::vec((1u64..2000, 1u32..8, 0u64..100), 100..150)
        ) {
            let mut repairs = Repairs::default();
            let (mut now, mut lost) = (Duration::ZERO, Duration::ZERO);
            let mut since_third = None;
            for (repair, share, until_it_differs) in steps {
                let many = repairs.diverged(now) >= MANY;
                now += repairs.wait(now);
                if many {
                    let (start, before) = *since_third.get_or_insert((now, lost));
                    prop_assert!(
                        (lost - before) * GUEST_SHARE <= now - start,
                        "{:?} of {:?}", lost - before, now - start
                    );
                }
                repairs.begins(now);
                let repair = Duration::from_millis(repair);
                repairs.costs(repair / share);
                lost += repair / share;
                now += repair + Duration::from_millis(until_it_differs);
            }
        }
    }

    #[test]
    fn one_now_and_then_is_repaired_at_once() {
        let mut repairs = Repairs::default();
        let mut now = Duration::ZERO;
        for _ in 0..10 {
            assert!(repairs.diverged(now) < MANY);
            assert_eq!(repairs.wait(now), Duration::ZERO);
            repairs.begins(now);
            repairs.costs(Duration::from_secs(60));
            now += WINDOW / 2 + Duration::from_secs(1);
        }
    }
}
