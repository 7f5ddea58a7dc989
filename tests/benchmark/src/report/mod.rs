//! The record for people: `report.md` with tables and plots, what is not met first.

mod goals;
mod paper;
mod plots;
mod table;
mod time;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::ValueEnum as _;

pub use self::plots::{Plot, plots};
use self::table::{Table, cell};
use crate::condition::Axis;
use crate::configuration::Configuration::{self, Alone, Beside, LoggedReads, Qemu};
use crate::machine::MachineState;
use crate::metric::{self, Metric};
use crate::record::{Record, RecordError};
use crate::sample::Outcome;
use crate::statistics::{Summary, figure, medians};
use crate::workload::Workload;

/// Its files' names.
pub const RECORD: &str = "report.json";
const TEXT: &str = "report.md";

/// What the table of workloads has, beside throughput and its ratios.
const COSTS: [Metric; 7] = [
    metric::LATENCY_P50,
    metric::LATENCY_P99,
    metric::LATENCY_P999,
    metric::EXITS,
    metric::EXITS_OF_ONE,
    metric::PRIMARY_CPU,
    metric::BACKUP_CPU,
];

/// What the table of replication has.
const REPLICATION: [Metric; 10] = [
    metric::CHANNEL,
    metric::CHANNEL_BYTES,
    metric::LOG,
    metric::LOG_PEAK,
    metric::ROUND_TRIP,
    metric::HOLD_P50,
    metric::HOLD_P99,
    metric::LAG_P50,
    metric::LAG_P99,
    metric::LAG_MAX,
];

/// How many kinds of entries are named that a log consists of.
const KINDS: usize = 3;

/// Writes record, report and plots to a directory.
///
/// # Errors
///
/// [`RecordError::File`].
pub fn write(record: &Record, directory: &Path) -> Result<(), RecordError> {
    record.write(&directory.join(RECORD))?;
    let plots = plots(record);
    let text = markdown(record, &plots);
    let files = plots.iter().map(|plot| (plot.name.as_str(), &plot.svg));
    for (name, contents) in files.chain([(TEXT, &text)]) {
        let path = directory.join(name);
        fs::write(&path, contents).map_err(|source| RecordError::File { path, source })?;
    }
    Ok(())
}

/// The report. Plots are shown where they belong, by their files' names.
#[must_use]
pub fn markdown(record: &Record, plots: &[Plot]) -> String {
    let mut text = String::from("# What protection costs\n\n");
    goals(record, &mut text);
    conditions(record, &mut text);
    workloads(record, &mut text);
    show(&mut text, plots, "throughput");
    network(record, &mut text);
    if plots.iter().any(|plot| plot.name == "time.svg") {
        text.push_str(
            "## Where the time goes\n\nFor the work that `ftvm` alone does in a second: what the \
             host that runs the guest does meanwhile. Idle is a host that waits for its client, for \
             its disk, or for the backup.\n\n",
        );
    }
    show(&mut text, plots, "time");
    replication(record, &mut text);
    outages(record, &mut text);
    show(&mut text, plots, "outages");
    if plots.iter().any(|plot| plot.name.starts_with("growth")) {
        text.push_str("## Growth\n\n");
    }
    for axis in Axis::value_variants() {
        show(&mut text, plots, &format!("growth-{}", axis.about().0));
    }
    let paper = paper::table(record);
    if !paper.is_empty() {
        let _ = write!(
            text,
            "## Beside the paper\n\nVMware FT, Scales et al. 2010. Their programs and machines were \
             others; ours is what comes nearest. Their figures of failover and of QEMU COLO do not \
             exist.\n\n{paper}"
        );
    }
    text
}

fn show(text: &mut String, plots: &[Plot], name: &str) {
    let file = format!("{name}.svg");
    if let Some(plot) = plots.iter().find(|plot| plot.name == file) {
        let _ = writeln!(text, "![{}]({})\n", plot.title, plot.name);
    }
}

/// What is missed, and what failed.
fn goals(record: &Record, text: &mut String) {
    let (missed, all, table) = goals::judge(record);
    let failed = record.samples.iter();
    let failed: Vec<_> = failed
        .filter_map(|sample| Some((sample, sample.failure()?)))
        .collect();
    let _ = write!(
        text,
        "**{missed} of {all} goals are missed; {} of {} measurements failed.** A goal is judged by the \
         median of its rounds; one figure of a workload is one goal.\n\n{table}",
        failed.len(),
        record.samples.len()
    );
    for (sample, reason) in &failed {
        let _ = writeln!(
            text,
            "- round {}, {}, {}, failed: {}",
            sample.round,
            sample.configuration,
            sample.workload,
            reason.replace('\n', "\n  ")
        );
    }
    if !failed.is_empty() {
        text.push('\n');
    }
}

fn conditions(record: &Record, text: &mut String) {
    let _ = writeln!(
        text,
        "## How it was measured\n\n{} {}, interleaved. Figures are medians ± the median distance from \
         them, so with one round there is no ±; ratios are those of figures of the same round. A CPU \
         figure is the VMM's processor time in seconds in a second. QEMU COLO is measured for longer \
         where it is compared to `ftvm`: with one request on the way.\n",
        record.rounds,
        if record.rounds == 1 {
            "round"
        } else {
            "rounds"
        },
    );
    if record.machine.is_emulated() {
        text.push_str(
            "**Hosts are emulated**: this machine's processors interpret theirs, and are shared by \
             both hosts and the clients. An exit, an interrupt or a frame costs many times what it \
             costs on hardware, and a busy backup slows its primary down. Compare ratios of this run; \
             no figure here says how fast `ftvm` is on real machines.\n\n",
        );
    }
    let mut table = Table::new(["machine and settings", ""]);
    for (name, value) in record.machine.lines() {
        table.row([name.to_owned(), value]);
    }
    for (name, value) in record.circumstances() {
        if !record.machine.lines().any(|(known, _)| known == name) {
            table.row([name, value]);
        }
    }
    noise(record).into_iter().for_each(|row| table.row(row));
    let _ = write!(text, "{table}");
}

/// How fast the machine was, and how much of it others had.
fn noise(record: &Record) -> Vec<[String; 2]> {
    let states: Vec<MachineState> = record.machine_states().collect();
    let Some(speed) = Summary::of(states.iter().map(|state| state.speed)) else {
        return Vec::new();
    };
    let speeds = states.iter().map(|state| state.speed);
    let slowest = figure(speeds.clone().fold(f64::INFINITY, f64::min));
    let fastest = figure(speeds.fold(0.0, f64::max));
    let stolen = states.iter().map(|state| state.stolen * 100.0);
    let mean = stolen.clone().sum::<f64>() / states.len() as f64;
    let most = stolen.fold(0.0, f64::max);
    let spoiled = states.iter().filter(|state| state.is_spoiled()).count();
    [
        (
            "its speed meanwhile, steps of a loop in a µs",
            format!("{}, from {slowest} to {fastest}", figure(speed.median)),
        ),
        (
            "taken by others meanwhile (steal)",
            format!("{mean:.0} % on average, {most:.0} % at most"),
        ),
        (
            "measurements while others had more than a fifth",
            spoiled.to_string(),
        ),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .to_vec()
}

/// All workloads under all configurations, and why some are not there.
fn workloads(record: &Record, text: &mut String) {
    let head = ["workload", "guest on", "throughput", "to QEMU", "to alone"];
    let head = head.into_iter().chain(["to alone, other host busy"]);
    let costs = COSTS.map(|metric| metric.title);
    let mut table = Table::new(head.chain(costs).chain(["machine's speed, to alone"]));
    let mut gaps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for &workload in &record.workloads {
        for &configuration in &record.configurations {
            if let Some(gap) = record.gap(configuration, workload) {
                let names = gaps.entry(format!("{configuration}: {gap}")).or_default();
                names.push(workload.to_string());
                continue;
            }
            let summary = |metric| cell(record.summary(configuration, workload, metric));
            let to = |to, metric| {
                let ratio = record.ratio(configuration, to, workload, metric);
                cell(ratio.filter(|_| to != configuration))
            };
            let throughput = metric::THROUGHPUT;
            let name = match workload.unit() {
                "" => workload.to_string(),
                unit => format!("{workload}, {unit}"),
            };
            let ratios = [Qemu, Alone, Beside].map(|other| to(other, throughput));
            table.row(
                [name, configuration.to_string(), summary(throughput)]
                    .into_iter()
                    .chain(ratios)
                    .chain(COSTS.map(summary))
                    .chain([to(Alone, metric::SPEED)]),
            );
        }
    }
    let _ = write!(text, "## Workloads\n\n{table}");
    for (reason, workloads) in gaps {
        let (workloads, reason) = (workloads.join("; "), reason.replace('\n', " "));
        let _ = writeln!(text, "- Not measured, {reason} ({workloads})");
    }
    for sample in &record.samples {
        let (configuration, condition) = (sample.configuration, sample.condition);
        if let Outcome::Gap { reason } = &sample.outcome
            && let Some(memory) = condition.memory_mib
        {
            let _ = writeln!(
                text,
                "- Not {memory} MiB of memory, {configuration}: {reason}"
            );
        }
    }
    text.push('\n');
}

/// What the Output Rule leaves of the throughput of a client that waits for its replies.
fn network(record: &Record, text: &mut String) {
    let mut table = Table::new([
        "workload",
        "alone, latency p50, ms",
        "replies waited for",
        "round trip, ms",
        "leaves",
        "measured",
        "of what it leaves",
    ]);
    for &workload in &record.workloads {
        let row = || {
            let exchanges = workload.exchanges()?;
            let latency = record.summary(Alone, workload, metric::LATENCY_P50)?.median;
            let trip = record
                .summary(LoggedReads, workload, metric::ROUND_TRIP)?
                .median;
            let measured = record.ratio(LoggedReads, Alone, workload, metric::THROUGHPUT)?;
            let leaves = leaves(latency, exchanges, trip);
            Some([
                workload.to_string(),
                figure(latency),
                exchanges.to_string(),
                figure(trip),
                figure(leaves),
                measured.to_string(),
                figure(measured.median / leaves),
            ])
        };
        row().into_iter().for_each(|row| table.row(row));
    }
    if !table.is_empty() {
        let _ = write!(
            text,
            "## What the logging network leaves\n\nA client that waits for a reply waits for a round \
             trip of the logging network as well, because no output leaves before the backup has the \
             log up to it. Were replication free otherwise, its throughput in proportion to that alone \
             would be what an operation takes alone, divided by that and the round trips.\n\n{table}"
        );
    }
}

/// The most that replicated throughput can be of that alone: each reply waits for a round trip.
fn leaves(latency_ms: f64, exchanges: u32, round_trip_ms: f64) -> f64 {
    latency_ms / (latency_ms + f64::from(exchanges) * round_trip_ms)
}

/// All workloads under all configurations that have a log or two hosts.
fn replication(record: &Record, text: &mut String) {
    let titles = ["workload", "guest on"].into_iter();
    let titles = titles.chain(REPLICATION.map(|metric| metric.title));
    let mut table = Table::new(titles.chain(["most of the log, Mbit/s"]));
    for &workload in &record.workloads {
        for &configuration in &record.configurations {
            let values = REPLICATION.map(|one| record.summary(configuration, workload, one));
            if values.iter().any(Option::is_some) {
                let names = [workload.to_string(), configuration.to_string()];
                let kinds = kinds(record, configuration, workload);
                table.row(names.into_iter().chain(values.map(cell)).chain([kinds]));
            }
        }
    }
    if !table.is_empty() {
        let _ = write!(text, "## The log, outputs, and the backup\n\n{table}");
    }
}

/// The kinds of entries that a log has most of.
fn kinds(record: &Record, configuration: Configuration, workload: Workload) -> String {
    let rounds = record.by_round(configuration, workload, |figures| {
        let log = figures.log()?;
        Some(goals::bytes_by_kind(
            &log.entries_per_second,
            &log.bytes_per_entry,
        ))
    });
    let rounds: Vec<_> = rounds.into_iter().map(|(_, kinds)| kinds).collect();
    let mut kinds: Vec<_> = medians(&rounds).into_iter().collect();
    kinds.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let kinds = kinds.into_iter().take(KINDS);
    let words = kinds.map(|(kind, bytes)| format!("{kind} {}", figure(bytes * 8.0 / 1e6)));
    words.collect::<Vec<_>>().join("; ")
}

fn outages(record: &Record, text: &mut String) {
    text.push_str("## Outage on failover\n\n");
    if record.outages.is_empty() {
        text.push_str("No host was killed in this run.\n\n");
        return;
    }
    let failed = record
        .outages
        .iter()
        .filter_map(|outage| outage.reason.as_ref());
    let lost: u64 = record.outages.iter().map(|outage| outage.lost).sum();
    let _ = writeln!(
        text,
        "{} kills of the primary's host; {} did not go well; {lost} acknowledged requests were \
         lost.\n",
        record.outages.len(),
        failed.clone().count()
    );
    let mut table = Table::new(["in milliseconds", "median", "shortest", "longest"]);
    let all: (&str, plots::OutagePart) = ("all of it, as the client sees it", |outage| {
        outage.outage_ms
    });
    let parts = plots::OUTAGE.map(|(part, (name, _))| (name, part));
    for (name, part) in parts.into_iter().chain([all]) {
        let values: Vec<u64> = record.outages.iter().filter_map(part).collect();
        let median = Summary::of(values.iter().map(|value| *value as f64));
        let [shortest, longest] = [values.iter().min(), values.iter().max()].map(cell);
        let median = cell(median.map(|one| figure(one.median)));
        table.row([name.to_owned(), median, shortest, longest]);
    }
    let _ = write!(text, "{table}");
    for reason in failed {
        let _ = writeln!(text, "- {reason}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outage::Outage;
    use crate::record::tests::record;

    #[test]
    fn a_report_leads_with_what_is_missed_and_says_why_something_is_not_there() {
        let mut record = record(&[
            (1, Qemu, Workload::RedisSet, 400.0),
            (2, Qemu, Workload::RedisSet, 420.0),
            (1, Alone, Workload::RedisSet, 190.0),
            (2, Alone, Workload::RedisSet, 199.0),
            (1, LoggedReads, Workload::RedisSet, -1.0),
        ]);
        record
            .settings
            .insert("seed of fio".to_owned(), "1".to_owned());
        record.outages.push(Outage {
            reason: Some("it did not come back".to_owned()),
            ..Outage::default()
        });
        let plots = plots(&record);
        let text = markdown(&record, &plots);
        let lead = text.lines().nth(2).expect("a lead");
        assert!(
            lead.starts_with("**1 of 1 goals are missed; 1 of 5"),
            "{lead}"
        );
        for expected in [
            "- round 1, ftvm replicated, Redis SET, failed: it fell over",
            "| Redis SET, requests/s | QEMU with KVM | 410 ± 10.0 | – | 2.11 ± 0.003 |",
            "| Redis SET, requests/s | ftvm alone | 194 ± 4.50 | 0.474 ± 0.001 | – |",
            "- Not measured, ftvm replicated: failed: it fell over (Redis SET)",
            "without a disk",
            "| seed of fio | 1 |",
            "1 did not go well",
            "it did not come back",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!plots.is_empty());
        for plot in plots {
            let shown = format!("]({})", plot.name);
            assert_eq!(text.matches(&shown).count(), 1, "{}", plot.name);
        }
    }

    #[test]
    fn each_reply_waits_for_a_round_trip() {
        assert_eq!(leaves(2.0, 1, 2.0), 0.5);
        assert_eq!(leaves(2.0, 7, 2.0), 0.125);
        assert_eq!(leaves(2.0, 1, 0.0), 1.0);
    }
}
