//! How long something took, often: percentiles, and what came since the last look.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that is told apart, in microseconds.
const LONGEST: u64 = 10 * 60 * 1_000_000;

/// Times, to two significant digits.
#[derive(Debug, Clone)]
pub struct Times {
    all: Histogram<u64>,
    recent: Histogram<u64>,
}

/// What [`Times`] were noted since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeFigures {
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Longest.
    pub max: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST, 2).expect("the histogram's bounds are valid");
        Self {
            all: histogram(),
            recent: histogram(),
        }
    }
}

impl Times {
    /// It took so long once more. Less than a microsecond counts as one.
    pub fn note(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST).max(1);
        self.all.saturating_record(micros);
        self.recent.saturating_record(micros);
    }

    /// The time that a share (0 to 1) of all did not pass; zero if there was none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.all.value_at_quantile(quantile))
    }

    /// How many were noted since the beginning.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.all.len()
    }

    /// What was noted since the beginning.
    #[must_use]
    pub fn figures(&self) -> TimeFigures {
        TimeFigures {
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            max: Duration::from_micros(self.all.max()),
        }
    }

    /// What was noted since this was asked last: times in microseconds, ascending, and how often
    /// each came. So somebody who collects them all has the percentiles of any stretch of time.
    pub fn take_recent(&mut self) -> Vec<(u64, u64)> {
        let recent = self.recent.iter_recorded();
        let counts = recent
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .collect();
        self.recent.reset();
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_not_lost_among_many_short_ones() {
        let mut times = Times::default();
        assert_eq!(times.figures(), TimeFigures::default());
        for _ in 0..1000 {
            times.note(Duration::from_millis(2));
        }
        times.note(Duration::from_millis(700));
        times.note(Duration::ZERO);
        let figures = times.figures();
        let near =
            |a: Duration, ms: u64| a.as_millis().abs_diff(u128::from(ms)) <= u128::from(ms / 50);
        assert!(near(figures.p50, 2) && near(figures.p99, 2), "{figures:?}");
        assert!(near(figures.max, 700), "{figures:?}");
    }

    #[test]
    fn what_was_taken_does_not_come_again_but_counts_on() {
        let mut times = Times::default();
        times.note(Duration::from_micros(5));
        times.note(Duration::from_micros(5));
        times.note(Duration::from_micros(90));
        assert_eq!(times.take_recent(), [(5, 2), (90, 1)]);
        assert_eq!(times.take_recent(), []);
        times.note(Duration::from_micros(7));
        assert_eq!(times.take_recent(), [(7, 1)]);
        assert_eq!(times.quantile(1.0), Duration::from_micros(90));
    }
}
