//! What `ftvm` told of a stretch of time: made of the `stats` among its events.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use crate::figures::{Figures, LOG, ROUND_TRIP, growth, log_of, own_exits, quantiles};

/// One `stats` event, as far as it is needed here. Counters are since the guest began to run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    guest_seconds: f64,
    log_bytes: u64,
    log_kinds: BTreeMap<String, Kind>,
    exits: BTreeMap<String, u64>,
    round_trip_ms: f64,
    lags_us: Vec<(u64, u64)>,
    output_holds_us: Vec<(u64, u64)>,
    input_waits_us: Vec<(u64, u64)>,
    state_deltas: u64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Kind {
    entries: u64,
    bytes: u64,
}

fn megabits(bytes: u64) -> f64 {
    bytes as f64 * 8.0 / 1e6
}

impl Counters {
    /// What grows, by the names of the figures that its growth is.
    fn all(&self) -> Figures {
        let mut all = Figures::from([("state deltas/s".to_owned(), self.state_deltas as f64)]);
        all.extend(
            self.exits
                .iter()
                .map(|(kind, count)| (own_exits(kind), *count as f64)),
        );
        if self.log_bytes > 0 {
            all.insert(LOG.to_owned(), megabits(self.log_bytes));
            for (kind, Kind { entries, bytes }) in &self.log_kinds {
                all.insert(log_of(kind), megabits(*bytes));
                all.insert(format!("log entries of {kind}/s"), *entries as f64);
            }
        }
        all
    }
}

/// The figures between two moments, by the last events that arrived before each of them. None where
/// there are no two of them.
pub(crate) fn figures(lines: &[(Instant, Counters)], from: Instant, to: Instant) -> Figures {
    let at = |moment: Instant| lines.iter().rposition(|(at, _)| *at <= moment);
    let Some(window) = at(from)
        .zip(at(to))
        .map(|(first, last)| &lines[first..=last])
    else {
        return Figures::new();
    };
    let (before, after) = (&window[0].1, &window[window.len() - 1].1);
    let seconds = after.guest_seconds - before.guest_seconds;
    if seconds <= 0.0 {
        return Figures::new();
    }
    let mut figures = growth(&before.all(), &after.all(), seconds);
    // Each event has the median of the last fifteen heartbeats: earlier ones have some in it from before.
    if after.round_trip_ms > 0.0 {
        figures.insert(ROUND_TRIP.to_owned(), after.round_trip_ms);
    }
    let mut add = |what: &str, of: fn(&Counters) -> &Vec<(u64, u64)>| {
        let news = window[1..].iter().flat_map(|(_, counters)| of(counters));
        let values = quantiles(news.copied(), [0.5, 0.99, 1.0]);
        let names = ["p50", "p99", "max"].map(|which| format!("{what} {which}, ms"));
        figures.extend(names.into_iter().zip(values.into_iter().flatten()));
    };
    add("lag", |one| &one.lags_us);
    add("output hold", |one| &one.output_holds_us);
    add("input wait", |one| &one.input_waits_us);
    figures
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::{HOLD_P50, LAG_P50};

    /// An event each half second: 100 exits, 10 entries of 20 bytes, and a hold of `n` ms.
    fn lines(start: Instant) -> Vec<(Instant, Counters)> {
        let line = |n: u64| {
            let counters = Counters {
                guest_seconds: n as f64 / 2.0,
                log_bytes: n * 1000,
                log_kinds: [(
                    "tsc".to_owned(),
                    Kind {
                        entries: n * 10,
                        bytes: n * 200,
                    },
                )]
                .into(),
                exits: [("halt".to_owned(), n * 100)].into(),
                round_trip_ms: n as f64 / 4.0,
                output_holds_us: vec![(n * 1000, 1)],
                ..Counters::default()
            };
            (start + Duration::from_millis(500) * n as u32, counters)
        };
        (0..=20).map(line).collect()
    }

    #[test]
    fn a_window_has_what_came_between() {
        let start = Instant::now();
        let lines = lines(start);
        let at = |ms| start + Duration::from_millis(ms);
        let seen = figures(&lines, at(2100), at(6200));
        // The events at 2.5 s to 6 s, with the three digits that a histogram keeps.
        for (name, expected) in [
            ("ftvm exits, halt/s", 200.0),
            (LOG, 0.016),
            ("log entries of tsc/s", 20.0),
            ("log of tsc, Mbit/s", 0.0032),
            (HOLD_P50, 8.0),
            (ROUND_TRIP, 3.0),
        ] {
            assert!(
                (seen[name] / expected - 1.0).abs() < 1e-3,
                "{name}: {seen:?}"
            );
        }
        assert_eq!(seen.get(LAG_P50), None);
        // Too few events are no figures.
        assert_eq!(figures(&lines, at(600), at(700)), Figures::new());
        assert_eq!(figures(&lines[5..], at(0), at(900)), Figures::new());
    }
}
