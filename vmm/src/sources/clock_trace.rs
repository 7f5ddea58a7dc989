//! The primary's clock as the log shows it.

use std::time::{Duration, Instant};

use logging_channel::entry::Payload;

use super::GuestClock;

/// A sample is used for one to two of these. Two hosts' clocks differ by up to some hundred parts in
/// a million, so that they are some ten milliseconds apart after that.
const WINDOW: Duration = Duration::from_secs(60);

/// A value of guest monotonic time in nanoseconds, and when it was received.
#[derive(Debug, Clone, Copy)]
struct Sample {
    arrived: Instant,
    nanos: u64,
}

impl Sample {
    /// What the clock shows at `now`, if this sample was not late at all.
    fn at(self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.arrived).as_nanos();
        self.nanos.saturating_add(since as u64)
    }

    /// The one that travelled faster, and so says better how late it is there.
    fn better(self, other: Self) -> Self {
        let later = self.arrived.max(other.arrived);
        if other.at(later) >= self.at(later) {
            other
        } else {
            self
        }
    }
}

/// The primary's clock as the log shows it, for this host's to go on from.
#[derive(Debug, Default)]
pub struct ClockTrace {
    /// The best sample of this window, and when it began.
    current: Option<(Instant, Sample)>,
    /// The best one of the window before.
    before: Option<Sample>,
    /// The last wall clock value that the guest got,
    wall: Option<Sample>,
    /// and how far that clock is ahead of its monotonic one, which stays as long as the host does.
    ahead: Option<u64>,
}

impl ClockTrace {
    /// Takes note of an entry received at `arrived`.
    pub fn note(&mut self, payload: &Payload, arrived: Instant) {
        let nanos = match payload {
            Payload::Tick(nanos) | Payload::Clock(nanos) | Payload::Tsc(nanos) => *nanos,
            Payload::WallClock(nanos) => {
                let nanos = *nanos;
                self.wall = Some(Sample { arrived, nanos });
                return;
            }
            Payload::Protected { clock, wall_clock } => {
                self.ahead = Some(wall_clock.saturating_sub(*clock));
                *clock
            }
            // The guest's time begins at its first entry, or before.
            _ if self.current.is_none() => 0,
            _ => return,
        };
        let sample = Sample { arrived, nanos };
        self.current = Some(match self.current {
            Some((begun, best)) if arrived.saturating_duration_since(begun) < WINDOW => {
                (begun, best.better(sample))
            }
            last => {
                self.before = last.map(|(_, best)| best);
                (arrived, sample)
            }
        });
    }

    /// The clock that goes on from there.
    #[must_use]
    pub fn go_on(&self) -> GuestClock {
        let Some((_, current)) = self.current else {
            return GuestClock::starting_now();
        };
        let Sample { arrived, nanos } = match self.before {
            Some(before) => current.better(before),
            None => current,
        };
        let monotonic = Duration::from_nanos(nanos);
        let wall = self.ahead.map_or(0, |ahead| nanos.saturating_add(ahead));
        // What the guest got shows at least what it was then.
        let got = self.wall.map_or(0, |got| {
            let later = got.arrived.saturating_duration_since(arrived).as_nanos();
            got.at(arrived).saturating_sub(later as u64)
        });
        GuestClock::going_on(arrived, monotonic, Duration::from_nanos(wall.max(got)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::ClockNeed;

    const SECOND: u64 = 1_000_000_000;

    fn shown(trace: &ClockTrace) -> u64 {
        trace.go_on().read(ClockNeed::Monotonic)
    }

    /// Entries once a second for so long, up to now, of a host whose clock is slower by `ppm` parts in
    /// a million. How far the clock that goes on is ahead of that host's.
    fn ahead_after(seconds: u64, ppm: u64) -> u64 {
        let mut trace = ClockTrace::default();
        let begin = Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .expect("this host has run for as long");
        for second in 0..=seconds {
            let nanos = second * (SECOND - ppm * 1000);
            trace.note(&Payload::Tick(nanos), begin + Duration::from_secs(second));
        }
        let clock = trace.go_on();
        let now = clock.instant_of(seconds * (SECOND - ppm * 1000));
        (begin + Duration::from_secs(seconds))
            .saturating_duration_since(now)
            .as_nanos() as u64
    }

    #[test]
    fn drift_does_not_add_up() {
        let window = 2 * WINDOW.as_secs();
        assert!(ahead_after(window, 100) <= 100_000 * window);
        assert!(ahead_after(6 * window, 100) <= 100_000 * window);
    }

    #[test]
    fn a_log_without_a_time_has_one() {
        let mut trace = ClockTrace::default();
        let arrived = Instant::now()
            .checked_sub(Duration::from_secs(7))
            .expect("this host has run for as long");
        trace.note(&Payload::Progress, arrived);
        trace.note(&Payload::Progress, Instant::now());
        assert!(shown(&trace) >= 7 * SECOND);
        trace.note(&Payload::Clock(9 * SECOND), Instant::now());
        assert!(shown(&trace) >= 9 * SECOND);
    }

    /// This host's wall clock is years behind, and the guest asked for its own long ago.
    #[test]
    fn the_wall_clock_does_not_go_back() {
        const LATER: u64 = 10_000_000_000 * SECOND;
        let mut trace = ClockTrace::default();
        let now = Instant::now();
        let wall = |trace: &ClockTrace| trace.go_on().read(ClockNeed::Wall);
        let both = Payload::Protected {
            clock: 50 * SECOND,
            wall_clock: LATER,
        };
        trace.note(&both, now);
        assert!(wall(&trace) >= LATER);
        trace.note(&Payload::WallClock(LATER + SECOND), now);
        assert!(wall(&trace) >= LATER + SECOND);
        trace.note(&Payload::Tick(3650 * SECOND), now);
        assert!(wall(&trace) >= LATER + 3600 * SECOND);
    }

    proptest! {
        /// However late entries are, the guest's time does not go back.
        #[test]
        fn never_goes_back(steps in prop::collection::vec((0..40 * SECOND, 0..SECOND), 1..20)) {
            let mut trace = ClockTrace::default();
            let begin = Instant::now();
            let (mut nanos, mut arrived) = (0, begin);
            for (step, late) in steps {
                nanos += step;
                arrived = arrived.max(begin + Duration::from_nanos(nanos + late));
                trace.note(&Payload::Tsc(nanos), arrived);
                let (_, current) = trace.current.expect("a sample");
                let best = trace.before.map_or(current, |before| current.better(before));
                prop_assert!(best.at(arrived) >= nanos);
            }
        }
    }
}
