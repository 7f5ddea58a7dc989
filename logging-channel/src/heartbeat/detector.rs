//! When to take the peer for lost. No clock, no socket: time is an argument.

use std::time::{Duration, Instant};

use super::grace::Grace;

/// Decides from what was heard, and when, whether the peer is lost.
///
/// Anything heard counts: heartbeats, log batches, acknowledgements. Silence for the timeout is a
/// loss, with one reservation: a process that did not run itself cannot tell a silent peer from
/// its own deafness. A stopped or starved process wakes up, sees that its last packet is long ago,
/// and would declare a healthy peer dead. So when a [`tick`](FailureDetector::tick) comes late,
///
/// - by more than an interval: the decision waits for one more interval, once in a silence,
/// - by more than the timeout: the decision waits for one more interval, every time,
///
/// during which the owner goes on draining its sockets. A peer that is alive sends at every
/// interval and will have been heard by then. On a host that is always late by a little, the
/// second delay does not come, so that a loss is found there too.
///
/// The owner must drain its sockets *before* each tick.
#[derive(Debug, Clone)]
pub struct FailureDetector {
    timeout: Duration,
    heard: Instant,
    grace: Grace,
}

/// What a [`FailureDetector`] thinks of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It was heard within the timeout.
    Alive,
    /// It was not, but this process was not running either: wait.
    Unsure,
    /// It is lost.
    Silent {
        /// How long it has not been heard.
        for_: Duration,
    },
}

impl FailureDetector {
    /// A detector that takes the peer as heard `now`, and that is ticked every `interval`.
    #[must_use]
    pub fn new(timeout: Duration, interval: Duration, now: Instant) -> Self {
        Self {
            timeout,
            heard: now,
            grace: Grace::new(timeout, interval, now),
        }
    }

    /// Something came from the peer at `at`.
    pub fn heard(&mut self, at: Instant) {
        if at > self.heard {
            self.heard = at;
            self.grace.news();
        }
    }

    /// Time has passed. To be called every interval, after the sockets were drained.
    pub fn tick(&mut self, now: Instant) -> Liveness {
        let unsure = self.grace.tick(now);
        let silence = now.saturating_duration_since(self.heard);
        if silence < self.timeout {
            Liveness::Alive
        } else if unsure {
            Liveness::Unsure
        } else {
            Liveness::Silent { for_: silence }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);
    const INTERVAL: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn detector() -> (FailureDetector, Instant) {
        let start = Instant::now();
        (FailureDetector::new(TIMEOUT, INTERVAL, start), start)
    }

    #[test]
    fn silence_for_the_timeout_is_a_loss() {
        let (mut detector, start) = detector();
        for n in 1..5 {
            assert_eq!(detector.tick(start + INTERVAL * n), Liveness::Alive);
        }
        assert_eq!(
            detector.tick(start + INTERVAL * 5),
            Liveness::Silent { for_: TIMEOUT }
        );
    }

    #[test]
    fn a_frozen_process_listens_for_an_interval_before_it_decides() {
        let (mut detector, start) = detector();
        let woke = start + ms(10_000);
        assert_eq!(detector.tick(woke), Liveness::Unsure);
        detector.heard(woke + ms(30));
        assert_eq!(detector.tick(woke + INTERVAL), Liveness::Alive);
    }

    #[test]
    fn a_frozen_process_whose_peer_is_gone_decides_after_that_interval() {
        let (mut detector, start) = detector();
        let woke = start + ms(10_000);
        assert_eq!(detector.tick(woke), Liveness::Unsure);
        assert!(matches!(
            detector.tick(woke + INTERVAL),
            Liveness::Silent { .. }
        ));
    }

    #[test]
    fn a_process_frozen_for_most_of_the_timeout_does_not_blame_its_peer() {
        let (mut detector, start) = detector();
        detector.heard(start + ms(90));
        assert_eq!(detector.tick(start + ms(100)), Liveness::Alive);
        assert_eq!(detector.tick(start + ms(595)), Liveness::Unsure);
    }

    #[test]
    fn a_host_that_is_always_a_little_late_finds_a_loss_too() {
        let (mut detector, start) = detector();
        let verdicts: Vec<_> = (1..6).map(|n| detector.tick(start + ms(250) * n)).collect();
        assert!(
            verdicts
                .iter()
                .any(|verdict| matches!(verdict, Liveness::Silent { .. })),
            "{verdicts:?}"
        );
    }

    proptest! {
        /// However time passes: never a loss within the timeout of the last sound, and never at a
        /// tick that was itself late by more than the timeout.
        #[test]
        fn no_loss_is_declared_wrongly(
            steps in prop::collection::vec((0u64..2000, any::<bool>()), 1..200)
        ) {
            let (mut detector, start) = detector();
            let (mut now, mut last_heard) = (start, start);
            for (step, heard) in steps {
                let late = ms(step).saturating_sub(INTERVAL);
                now += ms(step);
                if heard {
                    detector.heard(now);
                    last_heard = now;
                }
                if let Liveness::Silent { for_ } = detector.tick(now) {
                    prop_assert!(now - last_heard >= TIMEOUT);
                    prop_assert_eq!(for_, now - last_heard);
                    prop_assert!(late <= TIMEOUT);
                    break;
                }
            }
        }

        /// However it went before: once ticks are in time, a silent peer is found within the
        /// timeout and two intervals.
        #[test]
        fn every_loss_is_found(
            before in prop::collection::vec((0u64..2000, any::<bool>()), 0..50)
        ) {
            let (mut detector, mut now) = detector();
            for (step, heard) in before {
                now += ms(step);
                if heard {
                    detector.heard(now);
                }
                detector.tick(now);
            }
            let found = (1..=7).any(|n| {
                matches!(detector.tick(now + INTERVAL * n), Liveness::Silent { .. })
            });
            prop_assert!(found);
        }

        /// A peer that is heard in every interval is never lost, whatever its phase.
        #[test]
        fn a_lively_peer_is_never_lost(phase in 0u64..100, jitter in prop::collection::vec(0u64..99, 100)) {
            let (mut detector, start) = detector();
            for (n, jitter) in (1u32..).zip(jitter) {
                detector.heard(start + INTERVAL * n - ms(phase));
                prop_assert_eq!(detector.tick(start + INTERVAL * n + ms(jitter)), Liveness::Alive);
            }
        }
    }
}
