//! What `ftvm` is to reach, and whether it did.

use super::network::Limit;
use crate::bench::configuration::Configuration::{self, Alone, Colo, LoggedReads, Qemu};
use crate::bench::record::Record;
use crate::bench::sample::Metric;
use crate::bench::statistics::Summary;
use crate::bench::workload::Workload;

/// Ticks of Debian's kernel in a second.
const TICKS: f64 = 250.0;

/// The target that the logging network may put out of reach.
const REPLICATED: &str = "throughput: replicated / alone";

/// A target, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// What is bounded.
    pub(super) what: &'static str,
    pub(super) workload: Workload,
    pub(super) measured: f64,
    pub(super) bound: Bound,
    /// The most that the logging network leaves, where that is what bounds it.
    pub(super) left: Option<f64>,
}

/// How it is bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(super) fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bound) => measured >= bound,
            Self::AtMost(bound) => measured <= bound,
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {}", super::figure(bound)),
            Self::AtMost(bound) => format!("at most {}", super::figure(bound)),
        }
    }
}

/// All targets for which there are figures.
pub(super) fn targets(record: &Record) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |what, workload, measured: Option<f64>, bound| {
        let target = measured.map(|measured| Target {
            what,
            workload,
            measured,
            bound,
            left: match what {
                REPLICATED => Limit::of(record, workload).map(Limit::ratio),
                _ => None,
            },
        });
        targets.extend(target);
    };
    let ratio = |of, to, workload, metric| {
        let ratio = record.ratio(of, to, workload, metric);
        ratio.map(|ratio| ratio.median)
    };
    for workload in record.workloads.iter().copied() {
        let median = |configuration: Configuration, metric| {
            let summary = record.summary(configuration, workload, metric);
            summary.map(|summary| summary.median)
        };
        add(
            REPLICATED,
            workload,
            ratio(LoggedReads, Alone, workload, Metric::Throughput),
            Bound::AtLeast(0.95),
        );
        add(
            "throughput: alone / QEMU",
            workload,
            ratio(Alone, Qemu, workload, Metric::Throughput),
            Bound::AtLeast(0.9),
        );
        let log = median(LoggedReads, Metric::LogMbit);
        let bound = match workload {
            Workload::Idle => Some(0.2),
            _ => logged_input(record, workload).map(|input| 1.1 * input + 0.2),
        };
        if let Some(bound) = bound {
            add("log, Mbit/s", workload, log, Bound::AtMost(bound));
        }
        if let Some(trip) = median(LoggedReads, Metric::RoundTrip) {
            let hold = median(LoggedReads, Metric::HoldP50);
            add(
                "output hold p50, ms: a round trip + 20 %",
                workload,
                hold,
                Bound::AtMost(1.2 * trip),
            );
        }
        add(
            "lag p99, ms",
            workload,
            median(LoggedReads, Metric::LagP99),
            Bound::AtMost(20.0),
        );
        if workload == Workload::Idle {
            let exits = median(Alone, Metric::Exits).map(|exits| exits / TICKS);
            // An idle kernel may not tick at all; one that does has its share of them.
            add(
                "exits in the time of a tick",
                workload,
                exits,
                Bound::AtMost(2.0),
            );
        }
        if matches!(workload, Workload::RedisSet | Workload::RedisGet) {
            let exits = median(Alone, Metric::ExitsPerOperation);
            add("exits a request", workload, exits, Bound::AtMost(5.0));
            let to_colo = |metric| ratio(LoggedReads, Colo, workload, metric);
            for (what, metric, bound) in [
                (
                    "requests/s: replicated / COLO",
                    Metric::Throughput,
                    Bound::AtLeast(3.0),
                ),
                (
                    "latency p50: replicated / COLO",
                    Metric::LatencyP50,
                    Bound::AtMost(0.5),
                ),
                (
                    "channel bytes a request: replicated / COLO",
                    Metric::ChannelBytesPerOperation,
                    Bound::AtMost(0.1),
                ),
            ] {
                add(what, workload, to_colo(metric), bound);
            }
        }
    }
    targets
}

/// What came in from the network and the disk and is in the log, in megabits in a second.
fn logged_input(record: &Record, workload: Workload) -> Option<f64> {
    const INPUT: [&str; 2] = ["net-rx", "disk-data"];
    let input = record.of(LoggedReads, workload).filter_map(|sample| {
        let log = sample.figures()?.vmm.as_ref()?.log.as_ref()?;
        let of = |kind: &str| {
            let entries = log.entries_per_second.get(kind)?;
            Some(entries * log.bytes_per_entry.get(kind)?)
        };
        Some(INPUT.into_iter().filter_map(of).sum::<f64>() * 8.0 / 1e6)
    });
    Summary::of(input).map(|input| input.median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn targets_are_judged_by_their_bounds() {
        let record = record(&[
            (1, Qemu, Workload::RedisSet, 400.0),
            (1, Alone, Workload::RedisSet, 380.0),
            (1, LoggedReads, Workload::RedisSet, 190.0),
            (1, Colo, Workload::RedisSet, 50.0),
        ]);
        let judged: Vec<(&str, bool)> = targets(&record)
            .iter()
            .map(|target| (target.what, target.bound.holds(target.measured)))
            .collect();
        assert_eq!(
            judged,
            [
                (REPLICATED, false),
                ("throughput: alone / QEMU", true),
                ("requests/s: replicated / COLO", true),
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_no_target() {
        let record = record(&[(1, Qemu, Workload::Compute, 40.0)]);
        assert_eq!(targets(&record), []);
    }
}
