//! The guest's clocks, derived from this host's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::devices::ClockNeed;

/// Frequency of the guest's time stamp counter: it counts nanoseconds of guest time.
pub const TSC_KHZ: u32 = 1_000_000;

/// Guest time that runs with this host's monotonic clock from a given value on. It never goes
/// back, and after a failover it goes on from the last value that the log had, by the time that
/// really passed.
#[derive(Debug, Clone)]
pub struct GuestClock {
    started: Instant,
    /// Guest monotonic time at `started`.
    monotonic: Duration,
    /// Wall clock at `started`, since the Unix epoch.
    wall: Duration,
}

impl GuestClock {
    /// A clock for a guest that starts now.
    #[must_use]
    pub fn starting_now() -> Self {
        Self {
            started: Instant::now(),
            monotonic: Duration::ZERO,
            wall: host_wall_clock(),
        }
    }

    /// A clock that goes on where another host's stopped: at `heard`, this host received the
    /// guest's monotonic time `monotonic`; its wall clock showed `wall` then, or is not known to have
    /// shown more.
    #[must_use]
    pub fn going_on(heard: Instant, monotonic: Duration, wall: Duration) -> Self {
        let wall_at_heard = host_wall_clock().saturating_sub(heard.elapsed());
        Self {
            started: heard,
            monotonic,
            // This host's wall clock may be behind the other's; the guest's must not go back.
            wall: wall_at_heard.max(wall),
        }
    }

    /// Guest monotonic time in nanoseconds since reset.
    #[must_use]
    pub fn monotonic_nanos(&self) -> u64 {
        nanos(self.monotonic + self.started.elapsed())
    }

    /// The host instant at which guest monotonic time reaches `nanos`.
    #[must_use]
    pub fn instant_of(&self, nanos: u64) -> Instant {
        self.started + Duration::from_nanos(nanos).saturating_sub(self.monotonic)
    }

    /// The value of a clock. The time stamp counter runs at [`TSC_KHZ`] on every host.
    #[must_use]
    pub fn read(&self, need: ClockNeed) -> u64 {
        match need {
            ClockNeed::Tsc | ClockNeed::Monotonic => self.monotonic_nanos(),
            ClockNeed::Wall => nanos(self.wall + self.started.elapsed()),
        }
    }
}

fn host_wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_from_the_last_value() {
        let far_future = Duration::from_secs(10_000_000_000);
        let clock = GuestClock::going_on(Instant::now(), Duration::from_secs(77), far_future);
        assert!(clock.read(ClockNeed::Monotonic) >= 77_000_000_000);
        assert!(clock.read(ClockNeed::Wall) >= nanos(far_future));
        let at = clock.instant_of(80_000_000_000);
        assert!(at <= Instant::now() + Duration::from_secs(3));
    }

    #[test]
    fn never_goes_back() {
        let clock = GuestClock::starting_now();
        let mut last = 0;
        for _ in 0..1000 {
            let now = clock.read(ClockNeed::Tsc);
            assert!(now >= last);
            last = now;
        }
    }
}
