//! What `ftvm` is to reach, and whether it did.

use crate::bound::Bound::{self, AtLeast, AtMost};
use crate::configuration::Configuration::{Alone, Colo, Joining, LoggedReads, Migration, Qemu};
use crate::figures::{
    CHANNEL_BYTES, EXITS, EXITS_OF_ONE, Figures, HOLD_P50, KEPT, LAG_P99, LATENCY_P50, LOG,
    NOT_ZERO, PAUSE, RECEIVED, ROUND_TRIP, SENT, THROUGHPUT, TIME, log_of,
};
use crate::record::Record;
use crate::sample::Axis;
use crate::statistics::{Summary, ratios};
use crate::table::Table;
use crate::workload::Workload;

/// Ticks of Debian's kernel in a second.
const TICKS: f64 = 250.0;

/// A figure of a workload that a bound is for; none where there is no such goal.
type Of = fn(&Record, Workload) -> Option<Summary>;

/// All of them, for every workload that has the figure. Where a bound depends on what was measured,
/// the figure is in proportion to it, round by round.
#[rustfmt::skip]
const GOALS: [(&str, Bound, Of); 14] = [
    ("throughput, replicated / alone", AtLeast(0.95), |r, w| r.ratio(LoggedReads, Alone, w, THROUGHPUT)),
    ("throughput, alone / QEMU", AtLeast(0.9), |r, w| r.ratio(Alone, Qemu, w, THROUGHPUT)),
    ("log / (1.1 × what came in from network and disk + 0.2 Mbit/s)", AtMost(1.0), log_to_input),
    ("output hold p50 / round trip of the logging network", AtMost(1.2), hold_to_round_trip),
    ("lag p99, ms", AtMost(20.0), |r, w| r.summary(LoggedReads, w, LAG_P99)),
    ("exits in the time of a tick, alone", AtMost(2.0), exits_in_a_tick),
    ("exits a request, alone", AtMost(5.0), |r, w| one_at_a_time(w, r.summary(Alone, w, EXITS_OF_ONE))),
    ("requests/s, replicated / COLO", AtLeast(3.0), |r, w| to_colo(r, w, THROUGHPUT)),
    ("latency p50, replicated / COLO", AtMost(0.5), |r, w| to_colo(r, w, LATENCY_P50)),
    ("channel bytes a request, replicated / COLO", AtMost(0.1), |r, w| to_colo(r, w, CHANNEL_BYTES)),
    ("pause of a join / of QEMU's migration", AtMost(1.0), |r, w| r.ratio(Joining, Migration, w, PAUSE)),
    ("time of a join / of QEMU's migration", AtMost(1.5), |r, w| r.ratio(Joining, Migration, w, TIME)),
    ("sent for a join / pages that are not zero, as QEMU counts them", AtMost(1.1), sent_to_not_zero),
    ("throughput kept while a backup joins", AtLeast(0.7), |r, w| r.summary(Joining, w, KEPT)),
];

/// What came in is what the guest receives, not what the log makes of it; of the disk, what the log
/// has.
fn log_to_input(record: &Record, workload: Workload) -> Option<Summary> {
    replicated(record, workload, |figures| {
        let came_in = match workload {
            Workload::Idle => 0.0,
            _ => figures.get(RECEIVED)? + figures.get(&log_of("disk-data")).unwrap_or(&0.0),
        };
        Some(figures.get(LOG)? / (1.1 * came_in + 0.2))
    })
}

/// Of an idle guest: what is written meanwhile is sent again. What is zero, QEMU tells of the same guest.
fn sent_to_not_zero(record: &Record, workload: Workload) -> Option<Summary> {
    let values = |one, name| record.by_round(one, workload, |figures| figures.get(name).copied());
    let ratio = ratios(&values(Joining, SENT), &values(Migration, NOT_ZERO));
    ratio.filter(|_| workload == Workload::Idle)
}

fn hold_to_round_trip(record: &Record, workload: Workload) -> Option<Summary> {
    replicated(record, workload, |one| {
        Some(one.get(HOLD_P50)? / one.get(ROUND_TRIP)?)
    })
}

/// Of an idle guest: its kernel may not tick at all; one that does has its share of them.
fn exits_in_a_tick(record: &Record, workload: Workload) -> Option<Summary> {
    let exits = record.by_round(Alone, workload, |figures| figures.get(EXITS));
    let idle = exits.iter().filter(|_| workload == Workload::Idle);
    Summary::of(idle.map(|(_, exits)| *exits / TICKS))
}

fn one_at_a_time(workload: Workload, summary: Option<Summary>) -> Option<Summary> {
    summary.filter(|_| workload.asks_one_at_a_time())
}

fn replicated(
    record: &Record,
    workload: Workload,
    of: impl Fn(&Figures) -> Option<f64>,
) -> Option<Summary> {
    let values = record.by_round(LoggedReads, workload, of);
    Summary::of(values.into_iter().map(|(_, value)| value))
}

fn to_colo(record: &Record, workload: Workload, name: &str) -> Option<Summary> {
    one_at_a_time(workload, record.ratio(LoggedReads, Colo, workload, name))
}

/// How many goals are missed, of how many, and the table of them: what is missed by most comes first,
/// and within a goal the worst.
pub(super) fn judge(record: &Record) -> (usize, usize, Table) {
    let (mut missed_in_all, mut all) = (0, 0);
    let mut rows = Vec::new();
    let records = memory_sizes().map(|(mib, growth)| {
        let beside = growth.map_or(String::new(), |_| format!(", {mib} MiB"));
        (record.at(growth), beside)
    });
    let records: Vec<_> = records.collect();
    for (what, bound, of) in &GOALS {
        let mut measured = Vec::new();
        for (record, beside) in &records {
            for workload in record.workloads() {
                if let Some(summary) = of(record, workload) {
                    let excess = bound.excess(summary.median);
                    measured.push((excess, format!("{workload}{beside}"), summary));
                }
            }
        }
        measured.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        let missed = measured.iter().filter(|(excess, ..)| *excess > 1.0);
        let missed = missed.map(|(_, workload, summary)| format!("{workload} **{summary}**"));
        let missed: Vec<String> = missed.collect();
        let (met, count) = (measured.len() - missed.len(), measured.len());
        all += count;
        missed_in_all += missed.len();
        if count > 0 {
            let goal = format!("{what}: {bound}");
            let cells = [goal, format!("{met} of {count}"), missed.join("; ")];
            rows.push((missed.len(), cells));
        }
    }
    rows.sort_by_key(|(missed, _)| std::cmp::Reverse(*missed));
    let mut table = Table::new(["goal", "met by", "missed by"]);
    rows.into_iter().for_each(|(_, cells)| table.row(cells));
    (missed_in_all, all, table)
}

/// The sizes of a guest's memory, in MiB, and where on the axis each of them is.
pub(super) fn memory_sizes() -> impl Iterator<Item = (f64, Option<(Axis, f64)>)> {
    let sizes = Axis::Memory.values().iter().enumerate();
    sizes.map(|(number, &mib)| (mib, (number > 0).then_some((Axis::Memory, mib))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{add, record};

    #[test]
    fn what_is_missed_comes_first_and_the_worst_of_it() {
        let values = [400.0, 380.0, 190.0, 100.0];
        let set = [Qemu, Alone, LoggedReads, Colo].into_iter().zip(values);
        let mut values: Vec<_> = set
            .map(|(configuration, value)| (1, configuration, Workload::RedisSet, value))
            .collect();
        values.push((1, Alone, Workload::Compute, 40.0));
        values.push((1, LoggedReads, Workload::Compute, 4.0));
        let (missed, all, table) = judge(&record(&values));
        assert_eq!((missed, all), (3, 4));
        let text = table.to_string();
        let expected = format!(
            "| throughput, replicated / alone: at least 0.950 | 0 of 2 | {} **0.100**; Redis SET \
             **0.500** |\n| requests/s, replicated / COLO: at least 3.00 | 0 of 1 | Redis SET **1.90** |\n\
             | throughput, alone / QEMU: at least 0.900 | 1 of 1 |  |\n",
            Workload::Compute
        );
        assert!(text.contains(&expected), "{text}");
        // What was not measured is no goal.
        let (_, none, _) = judge(&record(&[(1, Qemu, Workload::Compute, 40.0)]));
        assert_eq!(none, 0);
    }

    #[test]
    fn a_bound_of_each_round_is_held_against_the_figure_of_that_round() {
        // What comes in: 1 Mbit/s from the network, and 10 from the disk in the last round. Bounds of
        // 1.3, 1.3 and 12.3: a bound of the medians would be 1.3, for a log of 2.
        let set = Workload::RedisSet;
        let mut record = record(&[1, 2, 3].map(|one| (one, LoggedReads, set, 100.0)));
        for (at, log, disk) in [(0, 2.6, 0.0), (1, 1.04, 0.0), (2, 12.3, 10.0)] {
            add(&mut record, at, LOG, log);
            add(&mut record, at, RECEIVED, 1.0);
            add(&mut record, at, &log_of("disk-data"), disk);
        }
        let summary = log_to_input(&record, set).expect("there is a log");
        assert!((summary.median - 1.0).abs() < 1e-9, "{summary}");
    }
}
