//! How far the backup is behind, in time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::entry::Lsn;
use crate::times::Times;

/// Entries that were appended within this time share a sample.
const GRAIN: Duration = Duration::from_millis(1);

/// Most samples kept. Beyond them, entries are taken to be as old as the newest sample: the lag is
/// then overestimated, never missed.
const MAX_SAMPLES: usize = 16 * 1024;

/// Remembers when entries were appended until they were executed.
///
/// The lag is the age of the oldest entry not yet executed. One time is kept for all entries that
/// were appended within a millisecond, so the lag is exact to that, rounded up.
#[derive(Debug)]
pub(super) struct LagMeter {
    /// First LSN that was appended at (or shortly after) a time, in order.
    samples: VecDeque<(Lsn, Instant)>,
    /// The lag at each report of the backup.
    times: Times,
}

impl LagMeter {
    pub(super) fn new() -> Self {
        Self {
            samples: VecDeque::new(),
            times: Times::default(),
        }
    }

    /// `lsn` was appended.
    pub(super) fn appended(&mut self, lsn: Lsn, now: Instant) {
        let covered = self
            .samples
            .back()
            .is_some_and(|&(_, at)| now.saturating_duration_since(at) < GRAIN);
        if !covered && self.samples.len() < MAX_SAMPLES {
            self.samples.push_back((lsn, now));
        }
    }

    /// Everything up to `executed` was executed, out of everything up to `appended`, as the backup
    /// reported at or after `then`.
    pub(super) fn executed(&mut self, executed: Lsn, appended: Lsn, then: Instant) {
        let Some(&(first, at)) = self.samples.front() else {
            return;
        };
        if executed < first {
            return;
        }
        self.times.note(then.saturating_duration_since(at));
        if executed >= appended {
            self.samples.clear();
            return;
        }
        while self
            .samples
            .get(1)
            .is_some_and(|&(next, _)| next <= executed.next())
        {
            self.samples.pop_front();
        }
        // The rest of this sample's entries, so that a sample is recorded when it is covered and
        // not again at every report within it.
        if let Some(front) = self.samples.front_mut() {
            front.0 = front.0.max(executed.next());
        }
    }

    /// Age of the oldest entry not executed.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        self.samples
            .front()
            .map_or(Duration::ZERO, |&(_, at)| now.saturating_duration_since(at))
    }

    /// The lags at all execution reports.
    pub(super) fn times(&mut self) -> &mut Times {
        &mut self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nothing_appended_or_everything_executed_is_no_lag() {
        let start = Instant::now();
        let mut meter = LagMeter::new();
        assert_eq!(meter.lag(start), Duration::ZERO);
        meter.appended(Lsn(1), start);
        meter.executed(Lsn(1), Lsn(1), start + ms(5));
        assert_eq!(meter.lag(start + ms(10)), Duration::ZERO);
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_entry_not_executed() {
        let start = Instant::now();
        let mut meter = LagMeter::new();
        meter.appended(Lsn(1), start);
        meter.appended(Lsn(5), start + ms(10));
        meter.appended(Lsn(9), start + ms(20));
        assert_eq!(meter.lag(start + ms(30)), ms(30));
        meter.executed(Lsn(3), Lsn(10), start + ms(30));
        assert_eq!(
            meter.lag(start + ms(30)),
            ms(30),
            "LSN 4 is as old as LSN 1"
        );
        meter.executed(Lsn(4), Lsn(10), start + ms(30));
        assert_eq!(meter.lag(start + ms(30)), ms(20));
        meter.executed(Lsn(9), Lsn(10), start + ms(31));
        assert_eq!(
            meter.lag(start + ms(40)),
            ms(20),
            "LSN 10 is as old as LSN 9"
        );
        meter.executed(Lsn(10), Lsn(10), start + ms(41));
        assert_eq!(meter.lag(start + ms(50)), Duration::ZERO);
    }

    #[test]
    fn samples_are_bounded_and_overestimate_beyond_the_bound() {
        let start = Instant::now();
        let mut meter = LagMeter::new();
        let count = MAX_SAMPLES as u64 + 100;
        for n in 1..=count {
            meter.appended(Lsn(n), start + ms(2) * n as u32);
        }
        assert_eq!(meter.samples.len(), MAX_SAMPLES);
        let end = start + ms(2) * count as u32;
        meter.executed(Lsn(count - 1), Lsn(count), end);
        assert!(meter.lag(end) >= ms(200));
    }

    #[test]
    fn quantiles_follow_the_reports() {
        let start = Instant::now();
        let mut meter = LagMeter::new();
        for n in 1..=100u64 {
            let at = start + ms(1000) * n as u32;
            meter.appended(Lsn(n), at);
            let lag = if n == 100 { 900 } else { 40 };
            meter.executed(Lsn(n), Lsn(n), at + ms(lag));
        }
        assert_eq!(meter.times().quantile(0.5).as_millis(), 40);
        assert!(meter.times().quantile(0.999) >= ms(890));
    }
}
