//! What `ftvm` is to reach, and whether it did.

use super::table::Table;
use crate::configuration::Configuration::{Alone, Colo, LoggedReads, Qemu};
use crate::metric::{self, Metric};
use crate::record::Record;
use crate::sample::{Figures, Rates};
use crate::statistics::{Summary, figure};
use crate::workload::Workload;

/// Ticks of Debian's kernel in a second.
const TICKS: f64 = 250.0;

/// A bound for a figure of every workload that has it.
struct Goal {
    what: &'static str,
    at_least: bool,
    bound: f64,
    of: fn(&Record, Workload) -> Option<Summary>,
}

/// All of them. Where a bound depends on what was measured, the figure is in proportion to it, round
/// by round.
const GOALS: [Goal; 10] = [
    Goal {
        what: "throughput, replicated / alone",
        at_least: true,
        bound: 0.95,
        of: |record, workload| record.ratio(LoggedReads, Alone, workload, metric::THROUGHPUT),
    },
    Goal {
        what: "throughput, alone / QEMU",
        at_least: true,
        bound: 0.9,
        of: |record, workload| record.ratio(Alone, Qemu, workload, metric::THROUGHPUT),
    },
    Goal {
        what: "log / (1.1 × what came in from network and disk + 0.2 Mbit/s)",
        at_least: false,
        bound: 1.0,
        of: |record, workload| {
            replicated(record, workload, |figures| {
                let came_in = match workload {
                    Workload::Idle => 0.0,
                    _ => logged_input(figures)?,
                };
                Some(figures.log()?.mbit / (1.1 * came_in + 0.2))
            })
        },
    },
    Goal {
        what: "output hold p50 / round trip of the logging network",
        at_least: false,
        bound: 1.2,
        of: |record, workload| {
            replicated(record, workload, |figures| {
                Some(figures.vmm.as_ref()?.output_hold?.p50 / figures.log()?.round_trip_ms?)
            })
        },
    },
    Goal {
        what: "lag p99, ms",
        at_least: false,
        bound: 20.0,
        of: |record, workload| record.summary(LoggedReads, workload, metric::LAG_P99),
    },
    Goal {
        // An idle kernel may not tick at all; one that does has its share of them.
        what: "exits in the time of a tick, alone",
        at_least: false,
        bound: 2.0,
        of: |record, workload| {
            let exits = record.by_round(Alone, workload, |one| (metric::EXITS.of)(workload, one));
            let idle = exits.iter().filter(|_| workload == Workload::Idle);
            Summary::of(idle.map(|(_, exits)| exits / TICKS))
        },
    },
    Goal {
        what: "exits a request, alone",
        at_least: false,
        bound: 5.0,
        of: |record, workload| {
            let exits = record.summary(Alone, workload, metric::EXITS_OF_ONE);
            exits.filter(|_| workload.asks_one_at_a_time())
        },
    },
    Goal {
        what: "requests/s, replicated / COLO",
        at_least: true,
        bound: 3.0,
        of: |record, workload| to_colo(record, workload, metric::THROUGHPUT),
    },
    Goal {
        what: "latency p50, replicated / COLO",
        at_least: false,
        bound: 0.5,
        of: |record, workload| to_colo(record, workload, metric::LATENCY_P50),
    },
    Goal {
        what: "channel bytes a request, replicated / COLO",
        at_least: false,
        bound: 0.1,
        of: |record, workload| to_colo(record, workload, metric::CHANNEL_BYTES),
    },
];

fn replicated(
    record: &Record,
    workload: Workload,
    of: impl Fn(&Figures) -> Option<f64>,
) -> Option<Summary> {
    let values = record.by_round(LoggedReads, workload, of);
    Summary::of(values.into_iter().map(|(_, value)| value))
}

fn to_colo(record: &Record, workload: Workload, metric: Metric) -> Option<Summary> {
    let ratio = record.ratio(LoggedReads, Colo, workload, metric);
    ratio.filter(|_| workload.asks_one_at_a_time())
}

/// Bytes in a second of each kind, by how many there are and how long they are.
pub(super) fn bytes_by_kind(rates: &Rates, sizes: &Rates) -> Rates {
    let bytes = |(kind, rate): (&String, &f64)| Some((kind.clone(), rate * sizes.get(kind)?));
    rates.iter().filter_map(bytes).collect()
}

/// What came in from the network, and from the disk as far as the log has that, in megabits in a
/// second: what the guest receives, not what the log makes of it.
fn logged_input(figures: &Figures) -> Option<f64> {
    let host = figures.primary.as_ref()?;
    let log = figures.log()?;
    let frames = bytes_by_kind(&host.frames_per_second, &host.bytes_per_frame);
    let entries = bytes_by_kind(&log.entries_per_second, &log.bytes_per_entry);
    let inputs = [frames.get("received"), entries.get("disk-data")];
    Some(inputs.into_iter().flatten().sum::<f64>() * 8.0 / 1e6)
}

/// How many goals are missed, of how many, and the table of them: what is missed by most comes first,
/// and within a goal the worst.
pub(super) fn judge(record: &Record) -> (usize, usize, Table) {
    let (mut missed_in_all, mut all) = (0, 0);
    let mut rows = Vec::new();
    for goal in &GOALS {
        let measured = record.workloads.iter().filter_map(|&workload| {
            let summary = (goal.of)(record, workload)?;
            let excess = match goal.at_least {
                true => goal.bound / summary.median,
                false => summary.median / goal.bound,
            };
            Some((excess, workload, summary))
        });
        let mut measured: Vec<_> = measured.collect();
        measured.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        let missed: Vec<String> = measured
            .iter()
            .filter(|(excess, ..)| *excess > 1.0)
            .map(|(_, workload, summary)| format!("{workload} **{summary}**"))
            .collect();
        let (met, count) = (measured.len() - missed.len(), measured.len());
        all += count;
        missed_in_all += missed.len();
        let bound = if goal.at_least { "at least" } else { "at most" };
        if count > 0 {
            let cells = [
                format!("{}: {bound} {}", goal.what, figure(goal.bound)),
                format!("{met} of {count}"),
                missed.join("; "),
            ];
            rows.push((missed.len(), cells));
        }
    }
    rows.sort_by_key(|(missed, _)| std::cmp::Reverse(*missed));
    let mut table = Table::new(["goal", "met by", "missed by"]);
    rows.into_iter().for_each(|(_, cells)| table.row(cells));
    (missed_in_all, all, table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{change, record};
    use crate::sample::{HostFigures, LogFigures, VmmFigures};

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
        let nothing = judge(&record(&[(1, Qemu, Workload::Compute, 40.0)]));
        assert_eq!(
            (nothing.0, nothing.1),
            (0, 0),
            "what was not measured is no goal"
        );
    }

    #[test]
    fn a_bound_of_each_round_is_held_against_the_figure_of_that_round() {
        let kinds = |values: [(&str, f64); 2]| values.map(|(kind, value)| (kind.to_owned(), value));
        // What comes in: 1 Mbit/s from the network, and 10 from the disk in the last round. Bounds of
        // 1.3, 1.3 and 12.3: a bound of the medians would be 1.3, for a log of 2.
        let rounds = [(2.6, 0.0), (1.04, 0.0), (12.3, 100.0)];
        let mut record =
            record(&[1, 2, 3].map(|one| (one, LoggedReads, Workload::RedisSet, 100.0)));
        for (at, (mbit, disk)) in rounds.into_iter().enumerate() {
            change(&mut record, at, |figures| {
                let log = LogFigures {
                    mbit,
                    entries_per_second: kinds([("net-rx", 1000.0), ("disk-data", disk)]).into(),
                    bytes_per_entry: kinds([("net-rx", 1250.0), ("disk-data", 12_500.0)]).into(),
                    ..LogFigures::default()
                };
                figures.vmm = Some(VmmFigures {
                    log: Some(log),
                    ..VmmFigures::default()
                });
                figures.primary = Some(HostFigures {
                    frames_per_second: kinds([("received", 1000.0), ("sent", 9000.0)]).into(),
                    bytes_per_frame: kinds([("received", 125.0), ("sent", 1250.0)]).into(),
                    ..HostFigures::default()
                });
            });
        }
        let summary = (GOALS[2].of)(&record, Workload::RedisSet).expect("there is a log");
        assert!((summary.median - 1.0).abs() < 1e-9, "{summary}");
    }
}
