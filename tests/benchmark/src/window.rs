//! What `ftvm` told of a stretch of time: made of the `stats` among its events.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use crate::sample::{LogFigures, Rates, Times, VmmFigures};
use crate::statistics::{Summary, quantiles};

/// One `stats` event, as far as it is needed here. Counters are since the guest began to run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stats {
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

/// The figures between two moments, by the last events that arrived before each of them. `None`
/// where there are no two of them.
pub(crate) fn figures(
    lines: &[(Instant, Stats)],
    from: Instant,
    to: Instant,
) -> Option<VmmFigures> {
    let first = lines.iter().rposition(|(at, _)| *at <= from)?;
    let last = lines.iter().rposition(|(at, _)| *at <= to)?;
    let window = &lines[first..=last];
    let (before, after) = (&window.first()?.1, &window.last()?.1);
    let seconds = after.guest_seconds - before.guest_seconds;
    if seconds <= 0.0 {
        return None;
    }
    let times = |of: fn(&Stats) -> &Vec<(u64, u64)>| {
        let news = window[1..]
            .iter()
            .flat_map(|(_, stats)| of(stats).iter().copied());
        let (count, [p50, p99, max]) = quantiles(news, [0.5, 0.99, 1.0])?;
        Some(Times {
            p50,
            p99,
            max,
            count,
        })
    };
    let deltas = after.state_deltas.saturating_sub(before.state_deltas);
    Some(VmmFigures {
        log: log(window, before, after, seconds),
        exits_per_second: rates(&before.exits, &after.exits, seconds),
        output_hold: times(|stats| &stats.output_holds_us),
        lag: times(|stats| &stats.lags_us),
        input_wait: times(|stats| &stats.input_waits_us),
        state_deltas_per_second: deltas as f64 / seconds,
    })
}

/// The growth of counters in a second. Those that did not grow are left out.
pub(crate) fn rates(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    seconds: f64,
) -> Rates {
    let grown = |(name, now): (&String, &u64)| {
        let grown = now.saturating_sub(before.get(name).copied().unwrap_or(0));
        (grown > 0).then(|| (name.clone(), grown as f64 / seconds))
    };
    after.iter().filter_map(grown).collect()
}

fn log(
    window: &[(Instant, Stats)],
    before: &Stats,
    after: &Stats,
    seconds: f64,
) -> Option<LogFigures> {
    if after.log_bytes == 0 {
        return None;
    }
    let grown = |what: fn(&Kind) -> u64| {
        let of = |stats: &Stats| -> BTreeMap<String, u64> {
            let kinds = stats.log_kinds.iter();
            kinds
                .map(|(name, kind)| (name.clone(), what(kind)))
                .collect()
        };
        rates(&of(before), &of(after), seconds)
    };
    let (entries, bytes) = (grown(|kind| kind.entries), grown(|kind| kind.bytes));
    let sizes = entries.iter();
    let sizes = sizes.filter_map(|(name, rate)| Some((name.clone(), bytes.get(name)? / rate)));
    let mbit = |from: &Stats, to: &Stats| {
        let bytes = to.log_bytes.saturating_sub(from.log_bytes) as f64;
        bytes * 8.0 / 1e6 / (to.guest_seconds - from.guest_seconds)
    };
    // Over one second at least: what goes out in one burst is no rate of the network.
    let peaks = window.iter().enumerate().filter_map(|(number, (_, from))| {
        let mut later = window[number..].iter().map(|(_, to)| to);
        let to = later.find(|to| to.guest_seconds - from.guest_seconds >= 1.0)?;
        Some(mbit(from, to))
    });
    let average = mbit(before, after);
    let trips = window.iter().map(|(_, stats)| stats.round_trip_ms);
    let trips = Summary::of(trips.filter(|trip| *trip > 0.0));
    Some(LogFigures {
        mbit: average,
        round_trip_ms: trips.map(|trips| trips.median),
        mbit_peak: peaks.fold(average, f64::max),
        bytes_per_entry: sizes.collect(),
        entries_per_second: entries,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An event each half second: 100 exits, 10 entries of 20 bytes, and a hold of `n` ms; at 5 s a
    /// burst of a log.
    fn lines(start: Instant, burst: u64) -> Vec<(Instant, Stats)> {
        let line = |n: u64| {
            let text = format!(
                r#"{{"event":"stats","guest_seconds":{},"log_bytes":{},
                    "log_kinds":{{"tsc":{{"entries":{},"bytes":{}}},"tick":{{"entries":3,"bytes":9}}}},
                    "exits":{{"halt":{}}},"round_trip_ms":{},"output_holds_us":[[{},1]],"unheard_of":1}}"#,
                n as f64 / 2.0,
                n * 1000 + if n >= 10 { burst } else { 0 },
                n * 10,
                n * 200,
                n * 100,
                n % 2,
                n * 1000,
            );
            let stats = serde_json::from_str(&text).expect("an event");
            (start + Duration::from_millis(500) * n as u32, stats)
        };
        (0..=20).map(line).collect()
    }

    #[test]
    fn a_window_has_what_came_between() {
        let start = Instant::now();
        let lines = lines(start, 0);
        let at = |ms| start + Duration::from_millis(ms);
        let seen = figures(&lines, at(2100), at(6200)).expect("events");
        let of = |name: &str, value| Rates::from([(name.to_owned(), value)]);
        assert_eq!(seen.exits_per_second, of("halt", 200.0));
        let log = seen.log.expect("a log");
        assert_eq!((log.mbit, log.mbit_peak), (0.016, 0.016));
        assert_eq!(log.round_trip_ms, Some(1.0), "0 is none");
        assert_eq!(log.entries_per_second, of("tsc", 20.0));
        assert_eq!(log.bytes_per_entry, of("tsc", 20.0));
        // The events at 2.5 s to 6 s, with the three digits that a histogram keeps.
        let hold = seen.output_hold.expect("holds");
        let near = |value: f64, to: f64| (value / to - 1.0).abs() < 1e-3;
        assert!(
            hold.count == 8 && near(hold.max, 12.0) && near(hold.p50, 8.0),
            "{hold:?}"
        );
        assert_eq!(seen.lag, None);
        // Too few events are no figures.
        assert_eq!(figures(&lines, at(600), at(700)), None);
        assert_eq!(figures(&lines[5..], at(0), at(900)), None);
    }

    #[test]
    fn a_peak_is_that_of_a_second() {
        let start = Instant::now();
        let lines = lines(start, 1_000_000);
        let seen = figures(&lines, start, start + Duration::from_secs(10)).expect("events");
        let log = seen.log.expect("a log");
        assert!((log.mbit - 0.816).abs() < 1e-9, "{log:?}");
        assert!((log.mbit_peak - 8.016).abs() < 1e-9, "{log:?}");
    }
}
