//! A host's clocks, which go at a rate of their own, stand while it is suspended, and are set.

use std::time::Duration;

/// How far the rate of a host's clock may be off, in parts in a million: what the kernel's own clock may be
/// slewed by.
pub(crate) const DRIFT_PPM: i64 = 500;

/// The clocks of one host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// Until then it was looked at, and showed this.
    at: Duration,
    showed: Duration,
    ppm: i64,
    /// How many faults keep it from going.
    stands: u32,
    /// How far the wall clock is ahead of the other one, in milliseconds.
    ahead_ms: i64,
}

impl Clock {
    /// What the monotonic clock shows at a time.
    pub(crate) fn shows(&self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_nanos() as i64;
        let passed = match self.stands {
            0 => passed + passed * self.ppm / 1_000_000,
            _ => 0,
        };
        self.showed + Duration::from_nanos(passed.max(0) as u64)
    }

    /// What the wall clock shows, in nanoseconds.
    pub(crate) fn wall(&self, now: Duration) -> u64 {
        let shows = self.shows(now).as_nanos() as i64;
        (shows + self.ahead_ms * 1_000_000).max(0) as u64
    }

    fn look(&mut self, now: Duration) {
        (self.showed, self.at) = (self.shows(now), now);
    }

    /// It goes at this rate from now on.
    pub(crate) fn drift(&mut self, ppm: i64, now: Duration) {
        self.look(now);
        self.ppm = ppm;
    }

    pub(crate) fn stop(&mut self, now: Duration) {
        self.look(now);
        self.stands += 1;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stands > 0
    }

    pub(crate) fn go(&mut self, now: Duration) {
        self.look(now);
        self.stands -= 1;
    }

    /// The wall clock is set, by so much.
    pub(crate) fn set(&mut self, by_ms: i64) {
        self.ahead_ms += by_ms;
    }
}
