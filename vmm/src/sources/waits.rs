//! How long inputs wait for the guest.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest wait that is told apart, in microseconds.
const LONGEST: u64 = 10 * 60 * 1_000_000;

/// Measures how long inputs waited on this host before the guest got them: from the moment at which
/// an I/O thread had them to their execution point. A handle.
#[derive(Debug, Clone)]
pub struct InputWaits(Arc<Mutex<Histogram<u64>>>);

/// What [`InputWaits`] measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitFigures {
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for InputWaits {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST, 2).expect("the histogram's bounds are valid");
        Self(Arc::new(Mutex::new(histogram)))
    }
}

impl InputWaits {
    /// An input waited for this long.
    pub fn note(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(LONGEST);
        let mut histogram = self.0.lock().expect("no holder panics");
        histogram.saturating_record(micros.max(1));
    }

    /// What was measured up to now.
    #[must_use]
    pub fn figures(&self) -> WaitFigures {
        let histogram = self.0.lock().expect("no holder panics");
        let quantile = |q| Duration::from_micros(histogram.value_at_quantile(q));
        WaitFigures {
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_not_lost_among_many_short_ones() {
        let waits = InputWaits::default();
        assert_eq!(waits.figures(), WaitFigures::default());
        for _ in 0..1000 {
            waits.clone().note(Duration::from_millis(2));
        }
        waits.note(Duration::from_millis(700));
        waits.note(Duration::ZERO);
        let figures = waits.figures();
        let near =
            |a: Duration, ms: u64| a.as_millis().abs_diff(u128::from(ms)) <= u128::from(ms / 50);
        assert!(near(figures.p50, 2) && near(figures.p99, 2), "{figures:?}");
        assert!(near(figures.max, 700), "{figures:?}");
    }
}
