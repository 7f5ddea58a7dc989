//! The record for people: `report.md` with tables and plots, what is not met first.

mod goals;
mod plots;
mod time;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::ValueEnum as _;

pub use self::plots::{Plot, plots};
use crate::configuration::Configuration::{
    self, Alone, AloneNested, LoggedReads, LoggedReadsNested, Migration, Qemu,
};
use crate::figures::{
    BACKUP_CPU, BEFORE, CHANNEL, CHANNEL_BYTES, EXITS, EXITS_OF_ONE, HOLD_P50, HOLD_P99, KEPT,
    LAG_MAX, LAG_P50, LAG_P99, LATENCY_P50, LATENCY_P99, LOG, LONGEST_WAIT, NOT_ZERO, PAUSE,
    PRIMARY_CPU, ROUND_TRIP, ROUNDS, SENT, STEAL, THROUGHPUT, TIME, log_kind,
};
use crate::outage::{ALL, DETECTION, FIRST_REPLY, GO_LIVE, Outage};
use crate::record::{Error, Record};
use crate::sample::{Axis, GROWTH};
use crate::settings::is_emulated;
use crate::statistics::{Summary, figure};
use crate::table::{Table, cell};
use crate::workload::Workload;

/// Its files' names.
pub const RECORD: &str = "report.json";
const TEXT: &str = "report.md";

/// What a table says of a workload under a configuration.
enum Column {
    /// The figure of this name.
    Figure(&'static str),
    /// How a figure is in proportion to that under another configuration.
    Ratio(&'static str, Configuration, &'static str),
    /// What the Output Rule leaves of the throughput of a client that waits for its replies, in
    /// proportion to that of `ftvm` alone.
    Leaves,
    /// The kinds of entries that its log has most of.
    Kinds,
}
use Column::{Figure, Kinds, Leaves, Ratio};

const WORKLOADS: [Column; 9] = [
    Figure(THROUGHPUT),
    Ratio("to QEMU", Qemu, THROUGHPUT),
    Ratio("to alone", Alone, THROUGHPUT),
    Figure(LATENCY_P50),
    Figure(LATENCY_P99),
    Figure(EXITS),
    Figure(EXITS_OF_ONE),
    Figure(PRIMARY_CPU),
    Figure(BACKUP_CPU),
];

const REPLICATION: [Column; 11] = [
    Figure(CHANNEL),
    Figure(CHANNEL_BYTES),
    Figure(LOG),
    Figure(ROUND_TRIP),
    Leaves,
    Figure(HOLD_P50),
    Figure(HOLD_P99),
    Figure(LAG_P50),
    Figure(LAG_P99),
    Figure(LAG_MAX),
    Kinds,
];

const TRANSFERS: [Column; 10] = [
    Figure(PAUSE),
    Ratio("to QEMU", Migration, PAUSE),
    Figure(TIME),
    Ratio("to QEMU", Migration, TIME),
    Figure(SENT),
    Figure(NOT_ZERO),
    Figure(ROUNDS),
    Figure(BEFORE),
    Figure(KEPT),
    Figure(LONGEST_WAIT),
];

/// What stands before some of the tables and plots.
const WITHOUT_DISK: &str = "QEMU COLO is measured without a disk: both sides would need one of their \
     own. A guest without a disk is not measured twice where only the backup's reads differ.\n\n";
const BY_GUEST: &str = "The throughput and latency of these are what a program in the guest finds, by the \
     guest's own clock; of all others, by this machine's: ";
const SAME_WORK: &str = "For the work that `ftvm` alone does in a second: what the host that runs the \
     guest does meanwhile. Idle is a host that waits for its client, for its disk, or for the backup.\n\n";
const NETWORK_LEAVES: &str = "A client that waits for a reply waits for a round trip of the logging \
     network as well, because no output leaves before the backup has the log up to it. What the network \
     leaves is the throughput in proportion to `ftvm` alone, were replication free otherwise: what an \
     operation takes alone, divided by that and the round trips.\n\n";

const PAGING: &str = "Recording and replication need shadow paging, where KVM translates the guest's \
     addresses and not the processor. What that leaves of the throughput, and what replication leaves \
     under each:\n\n";

const JOINING: &str = "How the whole state of a guest that runs gets to the other host: a backup joins it, or \
     QEMU migrates it live, without a limit of bandwidth and with its default of 300 ms for the pause. \
     The pause and the time are what each of them tells. The guest is idle, or has a client of Redis that \
     waits for each reply, or compiles a small program again and again.\n\n";

/// How many kinds of entries are named that a log consists of.
const MOST_KINDS: usize = 3;

/// Writes record, report and plots to a directory.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(record: &Record, directory: &Path) -> Result<(), Error> {
    record.write(&directory.join(RECORD))?;
    let plots = plots(record);
    let text = markdown(record, &plots);
    let files = plots.iter().map(|plot| (plot.name, &plot.svg));
    for (name, contents) in files.chain([(TEXT, &text)]) {
        let path = directory.join(name);
        fs::write(&path, contents).map_err(Error::file(&path))?;
    }
    Ok(())
}

/// The report. Plots are shown where they belong, by their files' names.
#[must_use]
pub fn markdown(record: &Record, plots: &[Plot]) -> String {
    let plot = |name: &str| {
        let plot = plots.iter().find(|plot| plot.name == name);
        let shown = plot.map(|plot| format!("![{}]({})\n\n", plot.title, plot.name));
        shown.unwrap_or_default()
    };
    let with_unit = |workload: Workload| match workload.unit() {
        "" => workload.to_string(),
        unit => format!("{workload}, {unit}"),
    };
    let workloads =
        by_guest(record) + &grid(record, &WORKLOADS, with_unit) + &plot("throughput.svg");
    let replication = grid(record, &REPLICATION, |workload| workload.to_string());
    let axes = Axis::value_variants().iter();
    let growth = axes.map(|axis| growth(record, *axis)).collect();
    let mut text = format!("# What protection costs\n\n{}", goals(record));
    let mut section = |title: &str, lead: &str, content: String| {
        if !content.is_empty() {
            let _ = write!(text, "## {title}\n\n{lead}{content}");
        }
    };
    section("How it was measured", "", conditions(record));
    section("Workloads", WITHOUT_DISK, workloads);
    section("Where the time goes", SAME_WORK, plot("time.svg"));
    section(
        "The log, outputs, and the backup",
        NETWORK_LEAVES,
        replication,
    );
    section("Joining", JOINING, transfers(record));
    section("Paging", PAGING, paging(record));
    let outages = outages(record) + &plot("outages.svg");
    section("Outage on failover", "", outages);
    section("Growth", "", growth);
    text
}

/// What is missed, and what failed.
fn goals(record: &Record) -> String {
    let (missed, all, table) = goals::judge(record);
    let failed = record.samples.iter();
    let failed = failed.filter_map(|one| Some((&one.subject, one.outcome.as_ref().err()?)));
    let line = |(subject, reason): (_, &String)| {
        format!("- {subject}, failed: {}\n", reason.replace('\n', "\n  "))
    };
    let failures: Vec<String> = failed.map(line).collect();
    let mut text = format!(
        "**{missed} of {all} goals are missed; {} of {} measurements failed.** A goal is judged by the \
         median of its rounds; one figure of a workload is one goal.\n\n{table}{}",
        failures.len(),
        record.samples.len(),
        failures.concat()
    );
    if !failures.is_empty() {
        text.push('\n');
    }
    text
}

/// Whose clock is the guest's.
fn by_guest(record: &Record) -> String {
    let workloads = record.workloads().into_iter();
    let names = workloads.filter(|one| one.is_timed_by_guest());
    let names: Vec<String> = names.map(|one| one.to_string()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("{BY_GUEST}{}.\n\n", names.join("; ")),
    }
}

fn conditions(record: &Record) -> String {
    let rounds = record.rounds();
    let mut text = format!(
        "{rounds} {}, interleaved. Figures are medians ± the distance of the farthest from them, so with \
         one round there is no ±; ratios are those of figures of the same round. A CPU figure is the VMM's \
         processor time in seconds in a second. QEMU COLO is measured for longer where it is compared \
         to `ftvm`: with one request on the way.\n\n",
        if rounds == 1 { "round" } else { "rounds" },
    );
    if is_emulated(&record.settings) {
        text.push_str(
            "**Hosts are emulated**: this machine's processors interpret theirs, and are shared by \
             both hosts and the clients. An exit, an interrupt or a frame costs many times what it \
             costs on hardware, and a busy backup slows its primary down. Compare ratios of this run; \
             no figure here says how fast `ftvm` is on real machines.\n\n",
        );
    }
    let mut table = Table::new(["machine and settings", ""]);
    for (name, value) in &record.settings {
        table.row([name.clone(), value.clone()]);
    }
    let steal = record
        .measured()
        .filter_map(|(_, figures)| figures.get(STEAL));
    let steal: Vec<f64> = steal.map(|part| part * 100.0).collect();
    if !steal.is_empty() {
        let mean = steal.iter().sum::<f64>() / steal.len() as f64;
        let most = steal.iter().copied().fold(0.0, f64::max);
        table.row([
            "taken by others meanwhile (steal)".to_owned(),
            format!("{mean:.0} % on average, {most:.0} % at most"),
        ]);
    }
    text.push_str(&table.to_string());
    text
}

/// A row for each workload under each configuration of which one of the columns says something.
fn grid(record: &Record, columns: &[Column], name: fn(Workload) -> String) -> String {
    let titles = columns.iter().map(|column| match column {
        Figure(title) | Ratio(title, ..) => *title,
        Leaves => "the network leaves",
        Kinds => "most of the log, Mbit/s",
    });
    let mut table = Table::new(["workload", "guest on"].into_iter().chain(titles));
    for workload in record.workloads() {
        for configuration in record.configurations() {
            let value = |column: &Column| match *column {
                Figure(name) => {
                    let summary = record.summary(configuration, workload, name);
                    summary.map(|one| one.to_string())
                }
                Ratio(_, to, name) => {
                    let ratio = record.ratio(configuration, to, workload, name);
                    let other = ratio.filter(|_| to != configuration);
                    other.map(|one| one.to_string())
                }
                Leaves => leaves(record, configuration, workload).map(figure),
                Kinds => kinds(record, configuration, workload),
            };
            let values: Vec<Option<String>> = columns.iter().map(value).collect();
            if values.iter().any(Option::is_some) {
                let names = [name(workload), configuration.to_string()].into_iter();
                table.row(names.chain(values.into_iter().map(cell)));
            }
        }
    }
    table.to_string()
}

/// The most that replicated throughput can be of that alone: each reply waits for a round trip.
fn leaves(record: &Record, configuration: Configuration, workload: Workload) -> Option<f64> {
    let replies = f64::from(workload.exchanges()?);
    let latency = record.summary(Alone, workload, LATENCY_P50)?.median;
    let trip = record.summary(configuration, workload, ROUND_TRIP)?.median;
    Some(latency / (latency + replies * trip))
}

/// The kinds of entries that a log has most of. What a round has not had is none of it.
fn kinds(record: &Record, configuration: Configuration, workload: Workload) -> Option<String> {
    let rounds = record.by_round(configuration, workload, Some);
    let names = rounds.iter().flat_map(|(_, figures)| figures.keys());
    let names: BTreeSet<&String> = names.collect();
    let kinds = names.into_iter().filter_map(|name| {
        let values = rounds.iter().map(|(_, figures)| figures.get(name).copied());
        let median = Summary::of(values.map(Option::unwrap_or_default))?.median;
        Some((log_kind(name)?, median))
    });
    let mut kinds: Vec<(&str, f64)> = kinds.collect();
    kinds.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let word = |(kind, mbit): &(&str, f64)| format!("{kind} {}", figure(*mbit));
    let words: Vec<_> = kinds.iter().take(MOST_KINDS).map(word).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// What shadow paging leaves of throughput, where both were measured.
fn paging(record: &Record) -> String {
    let pairs = [Alone, LoggedReads].map(|one| one.nested().map(|nested| (one, nested)));
    let pairs: Vec<_> = pairs.into_iter().flatten().collect();
    let titles = pairs
        .iter()
        .map(|(one, _)| format!("{one}, shadow / nested"));
    let by_mode = [(LoggedReads, Alone), (LoggedReadsNested, AloneNested)];
    let modes = ["shadow", "nested"].map(|mode| format!("replicated / alone, {mode}"));
    let all = ["workload".to_owned()]
        .into_iter()
        .chain(titles)
        .chain(modes);
    let mut table = Table::new(all);
    for workload in record.workloads() {
        let ratio = |&(one, other): &_| record.ratio(one, other, workload, THROUGHPUT);
        let shadow: Vec<_> = pairs.iter().map(ratio).collect();
        if shadow.iter().any(Option::is_some) {
            let ratios = shadow.into_iter().chain(by_mode.iter().map(ratio));
            table.row([workload.to_string()].into_iter().chain(ratios.map(cell)));
        }
    }
    table.to_string()
}

/// What was measured of transfers, for each size of the guest's memory.
fn transfers(record: &Record) -> String {
    let tables = goals::memory_sizes().map(|(mib, growth)| {
        let table = grid(&record.at(growth), &TRANSFERS, |one| one.to_string());
        match table.is_empty() {
            true => table,
            false => format!("A guest with {mib} MiB:\n\n{table}"),
        }
    });
    tables.collect()
}

/// How throughput and latency go along an axis, if anything was measured along it.
fn growth(record: &Record, axis: Axis) -> String {
    let (unit, title) = (GROWTH.unit(), axis.title());
    let title = format!("{GROWTH}, {unit} (latency p50, ms): {title}");
    let values = axis.values().iter().map(ToString::to_string);
    let mut table = Table::new([title].into_iter().chain(values));
    for configuration in record.configurations() {
        let rates = record.growth(axis, configuration, THROUGHPUT);
        let latencies = record.growth(axis, configuration, LATENCY_P50);
        if rates.iter().flatten().count() > 1 {
            let both = rates.into_iter().zip(latencies);
            let both = both.map(|(rate, latency)| {
                cell(
                    rate.zip(latency)
                        .map(|(rate, latency)| format!("{} ({})", figure(rate), figure(latency))),
                )
            });
            table.row([configuration.to_string()].into_iter().chain(both));
        }
    }
    table.to_string()
}

fn outages(record: &Record) -> String {
    let outages = &record.outages;
    if outages.is_empty() {
        return "No host was killed in this run.\n\n".to_owned();
    }
    let failed = outages.iter().filter_map(|outage| outage.reason.as_ref());
    let lost: u64 = outages.iter().map(|outage| outage.lost).sum();
    let mut text = format!(
        "{} kills of the primary's host; {} did not go well; {lost} acknowledged requests were \
         lost.\n\n",
        outages.len(),
        failed.clone().count()
    );
    let parts = [ALL, DETECTION, GO_LIVE, FIRST_REPLY];
    let mut table = Table::new(["in milliseconds"].into_iter().chain(parts));
    let medians = parts.map(|name| {
        let values = outages.iter().filter_map(|one| one.millis.get(name));
        let summary = Summary::of(values.map(|value| *value as f64));
        cell(summary.map(|one| figure(one.median)))
    });
    table.row(["median".to_owned()].into_iter().chain(medians));
    // Each of them: a median hides that there are long ones and short ones.
    let mut all: Vec<&Outage> = outages.iter().collect();
    all.sort_by_key(|outage| outage.millis.get(ALL));
    for (number, outage) in (1..).zip(all) {
        let millis = parts.map(|name| cell(outage.millis.get(name)));
        table.row([format!("{number}")].into_iter().chain(millis));
    }
    text.push_str(&table.to_string());
    for reason in failed {
        let _ = writeln!(text, "- {reason}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{add, record};

    #[test]
    fn a_report_leads_with_what_is_missed() {
        let set = Workload::RedisSet;
        let mut record = record(&[
            (1, Qemu, set, 400.0),
            (2, Qemu, set, 420.0),
            (1, Alone, set, 190.0),
            (2, Alone, set, 199.0),
            (1, LoggedReads, set, -1.0),
            (2, LoggedReads, set, 100.0),
        ]);
        add(&mut record, 2, LATENCY_P50, 6.0);
        add(&mut record, 5, ROUND_TRIP, 2.0);
        record
            .settings
            .insert("seed of fio".to_owned(), "1".to_owned());
        record.outages.push(Outage {
            reason: Some("it did not come back".to_owned()),
            ..Outage::default()
        });
        for [all, first_reply] in [[830, 214], [540, 3]] {
            record.outages.push(Outage {
                millis: [(ALL.to_owned(), all), (FIRST_REPLY.to_owned(), first_reply)].into(),
                ..Outage::default()
            });
        }
        let plots = plots(&record);
        let text = markdown(&record, &plots);
        let lead = text.lines().nth(2).expect("a lead");
        assert!(
            lead.starts_with("**2 of 2 goals are missed; 1 of 6"),
            "{lead}"
        );
        for expected in [
            "- round 1, ftvm replicated, Redis SET, failed: it fell over",
            "| Redis SET, requests/s | QEMU with KVM | 410 ± 10.0 | – | 2.11 ± 0.003 |",
            "| Redis SET, requests/s | ftvm alone | 194 ± 4.50 | 0.474 ± 0.001 | – |",
            "| Redis SET | ftvm replicated | – | – | – | 2.00 | 0.750 |",
            "| seed of fio | 1 |",
            "1 did not go well",
            "it did not come back",
            "| median | 685 | – | – | 108 |\n| 1 | – | – | – | – |\n| 2 | 540 | – | – | 3 |\n\
             | 3 | 830 | – | – | 214 |",
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
    fn a_join_is_beside_a_migration_of_a_guest_of_the_same_size() {
        use Configuration::Joining;
        let idle = Workload::Idle;
        let set = Workload::RedisSet;
        let mut record = record(&[
            (1, Joining, idle, 0.0),
            (1, Migration, idle, 0.0),
            (1, Joining, set, 0.0),
            (1, Migration, set, 0.0),
        ]);
        for at in [2, 3] {
            record.samples[at].subject.growth = Some((Axis::Memory, 1024.0));
        }
        for (at, [pause, time, sent, not_zero]) in [
            [30.0, 2.0, 48.0, 0.0],
            [120.0, 1.0, 90.0, 80.0],
            [300.0, 2.0, 90.0, 0.0],
            [150.0, 2.0, 90.0, 80.0],
        ]
        .into_iter()
        .enumerate()
        {
            let figures = record.samples[at].outcome.as_mut().expect("measured");
            figures.clear();
            for (name, value) in [
                (PAUSE, pause),
                (TIME, time),
                (SENT, sent),
                (NOT_ZERO, not_zero),
            ] {
                if value > 0.0 {
                    figures.insert(name.to_owned(), value);
                }
            }
        }
        add(&mut record, 2, KEPT, 0.8);
        let text = markdown(&record, &[]);
        for expected in [
            "**2 of 6 goals are missed",
            "migration: at most 1.00 | 1 of 2 | Redis SET, 1024 MiB **2.00** |",
            "migration: at most 1.50 | 1 of 2 | idle **2.00** |",
            "not zero, as QEMU counts them: at most 1.10 | 1 of 1 |",
            "while a backup joins: at least 0.700 | 1 of 1 |",
            "A guest with 256 MiB:\n\n| workload | guest on | pause, ms |",
            "| idle | ftvm, a backup joins | 30.0 | 0.250 | 2.00 | 2.00 | 48.0 | – |",
            "| Redis SET | QEMU, live migration | 150 | – | 2.00 | – | 90.0 | 80.0 |",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
