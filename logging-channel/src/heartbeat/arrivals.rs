//! How the peer's heartbeats arrive: what a network does to datagrams.

use std::time::Duration;

/// How the peer's heartbeats have arrived since the session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrivals {
    /// How many were heard.
    pub heard: u64,
    /// How many of those sent before the last one heard were not: lost, or overtaken by a later one.
    pub missed: u64,
    /// The last round trip that one of them measured.
    last_trip: Option<Duration>,
    /// By how much round trips differed from the one before, in all, and how often.
    varied: Duration,
    variations: u32,
}

impl Arrivals {
    /// The peer's heartbeat `sequence` came, which is newer than all before, and measured this round trip.
    pub(crate) fn note(&mut self, sequence: u64, trip: Option<Duration>) {
        self.heard += 1;
        self.missed = sequence.saturating_sub(self.heard);
        if let Some(trip) = trip
            && let Some(last) = self.last_trip.replace(trip)
        {
            self.varied += trip.abs_diff(last);
            self.variations += 1;
        }
    }

    /// By how much the round trip of a heartbeat differs from that of the one before, in the mean; `None` before the
    /// second. The hosts' own delays are in it, the network's both ways, and no clock is compared with the other
    /// host's.
    #[must_use]
    pub fn jitter(&self) -> Option<Duration> {
        self.varied.checked_div(self.variations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn those_that_were_passed_over_are_missed() {
        let mut it = Arrivals::default();
        for sequence in [1, 2, 5, 6, 8] {
            it.note(sequence, None);
        }
        assert_eq!((it.heard, it.missed), (5, 3));
        assert_eq!(it.jitter(), None);
    }

    #[test]
    fn jitter_is_what_changes_and_not_what_takes_long() {
        let mut steady = Arrivals::default();
        let mut shaking = Arrivals::default();
        for sequence in 1..=9 {
            steady.note(sequence, Some(ms(40)));
            shaking.note(sequence, Some(ms(1 + sequence % 2 * 4)));
        }
        assert_eq!(steady.jitter(), Some(ms(0)));
        assert_eq!(shaking.jitter(), Some(ms(4)));
    }
}
