//! The record for people: tables in Markdown, and plots.

mod breakdown;
mod contents;
mod missed;
mod network;
mod outages;
mod paper;
mod plots;
mod targets;
mod time;

use std::fmt::Write as _;

pub use self::plots::Plot;
use super::condition::Axis;
use super::configuration::Configuration;
use super::machine_state::MachineState;
use super::record::Record;
use super::sample::{Metric, Sample};
use super::schedule;
use super::statistics::Summary;
use super::workload::Workload;

/// What a table of one workload has, beside throughput and its ratios.
const COLUMNS: [Metric; 7] = [
    Metric::LatencyP50,
    Metric::LatencyP99,
    Metric::LatencyP999,
    Metric::Exits,
    Metric::ExitsPerOperation,
    Metric::PrimaryCpu,
    Metric::BackupCpu,
];

/// What the table of replication has.
const REPLICATION: [Metric; 12] = [
    Metric::ChannelMbit,
    Metric::ChannelBytesPerOperation,
    Metric::LogMbit,
    Metric::LogPeak,
    Metric::Entries,
    Metric::LogBytesPerOperation,
    Metric::RoundTrip,
    Metric::HoldP50,
    Metric::HoldP99,
    Metric::LagP50,
    Metric::LagP99,
    Metric::LagMax,
];

/// A figure with three digits that say something.
pub(super) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.0 => 0,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    // Thousands are easier to read with a space.
    match text.strip_prefix('-').unwrap_or(&text).len() {
        5.. if digits == 0 => grouped(&text),
        _ => text,
    }
}

fn grouped(number: &str) -> String {
    let mut text = String::new();
    for (place, digit) in number.chars().enumerate() {
        if place > 0 && (number.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Median and spread; a single value has no spread.
fn summary(summary: Option<Summary>) -> String {
    match summary {
        None => "–".to_owned(),
        Some(one) if one.count == 1 => figure(one.median),
        Some(some) => format!("{} ± {}", figure(some.median), figure(some.spread)),
    }
}

/// A line of a table.
fn line(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The head of a table: the first column has words, the others figures.
fn head(text: &mut String, titles: &[&str]) {
    line(text, titles.iter().map(|&title| title.to_owned()));
    let rules = titles.iter().enumerate();
    line(
        text,
        rules.map(|(column, _)| if column == 0 { "---" } else { "---:" }.to_owned()),
    );
}

/// The plots of these names, as far as there are.
fn show(text: &mut String, plots: &[Plot], names: &[&str]) {
    for name in names {
        let file = format!("{name}.svg");
        if let Some(plot) = plots.iter().find(|plot| plot.name == file) {
            let _ = writeln!(text, "![{}]({})\n", plot.title, plot.name);
        }
    }
}

impl Record {
    /// The report. Plots are shown where they belong, by their files' names.
    #[must_use]
    pub fn to_markdown(&self, plots: &[Plot]) -> String {
        let mut text = String::from("# What protection costs\n\n");
        self.describe(&mut text);
        self.target_tables(&mut text);
        show(&mut text, plots, &["to-alone", "to-qemu"]);
        for workload in &self.workloads {
            self.workload_table(&mut text, *workload);
        }
        show(&mut text, plots, &["latency", "cpu"]);
        self.network_limits(&mut text);
        self.time_table(&mut text);
        show(&mut text, plots, &["time"]);
        self.replication_table(&mut text);
        show(&mut text, plots, &["log", "hold", "lag"]);
        self.breakdowns(&mut text);
        self.outage_table(&mut text);
        show(&mut text, plots, &["outages"]);
        for axis in Axis::ALL {
            self.growth_table(&mut text, axis);
            show(&mut text, plots, &[&format!("growth-{}", axis.name())]);
        }
        self.paper_table(&mut text);
        self.failures(&mut text);
        text
    }

    fn describe(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{} {}, {} s each, interleaved. Figures are medians ± the median distance from them; \
             ratios are those of figures of the same round. A CPU figure is the VMM's processor \
             time in seconds in a second.\n",
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" },
            self.window_seconds
        );
        if self.colo_window_seconds > self.window_seconds {
            let _ = writeln!(
                text,
                "{} was measured for {} s at a time where it is compared to ftvm: with one request on \
                 the way.\n",
                Configuration::Colo,
                self.colo_window_seconds
            );
        }
        head(text, &["machine", ""]);
        for (name, value) in self.machine.lines() {
            line(text, [name.to_owned(), value]);
        }
        for (name, value) in self.noise() {
            line(text, [name.to_owned(), value]);
        }
        text.push('\n');
    }

    /// How fast the machine was, and how much of it others had.
    fn noise(&self) -> Vec<(&'static str, String)> {
        let Some(speed) = self.speed() else {
            return Vec::new();
        };
        let states = || self.machine_states();
        let slowest = states()
            .map(|state| state.speed)
            .fold(speed.median, f64::min);
        let fastest = states()
            .map(|state| state.speed)
            .fold(speed.median, f64::max);
        let most = states().map(|state| state.stolen).fold(0.0, f64::max);
        let mean = states().map(|state| state.stolen).sum::<f64>() / speed.count as f64;
        let [median, slowest, fastest] = [speed.median, slowest, fastest].map(figure);
        vec![
            (
                "its speed meanwhile, steps of a loop in a µs",
                format!("{median}, from {slowest} to {fastest}"),
            ),
            (
                "taken by others meanwhile (steal)",
                format!(
                    "{:.0} % on average, {:.0} % at most",
                    mean * 100.0,
                    most * 100.0
                ),
            ),
            (
                "measurements while others had more than a fifth",
                states()
                    .filter(MachineState::is_spoiled)
                    .count()
                    .to_string(),
            ),
        ]
    }

    fn workload_table(&self, text: &mut String, workload: Workload) {
        let _ = writeln!(text, "## {workload}\n");
        let seen = |metric: &Metric| {
            let under = |configuration: &Configuration| {
                self.summary(*configuration, workload, *metric).is_some()
            };
            self.configurations.iter().any(under)
        };
        let columns: Vec<Metric> = COLUMNS.into_iter().filter(seen).collect();
        let throughput = seen(&Metric::Throughput);
        let mut titles = vec!["guest on"];
        if throughput {
            titles.extend([
                workload.unit(),
                "to QEMU",
                "to ftvm alone",
                "to that with a busy host",
            ]);
        }
        titles.extend(columns.iter().map(|metric| metric.title()));
        head(text, &titles);
        let mut gaps = Vec::new();
        for configuration in &self.configurations {
            if let Some(gap) = self.gap(*configuration, workload) {
                gaps.push((*configuration, gap));
                let dashes = std::iter::repeat_n("–".to_owned(), titles.len() - 1);
                let name = format!("{configuration} ({})", gaps.len());
                line(text, std::iter::once(name).chain(dashes));
                continue;
            }
            let mut cells = vec![configuration.to_string()];
            if throughput {
                let metric = Metric::Throughput;
                cells.push(summary(self.summary(*configuration, workload, metric)));
                for to in [
                    Configuration::Qemu,
                    Configuration::Alone,
                    Configuration::Beside,
                ] {
                    let ratio = self.ratio(*configuration, to, workload, metric);
                    cells.push(match ratio {
                        Some(ratio) => format!("{:.2}", ratio.median),
                        None => "–".to_owned(),
                    });
                }
            }
            let values = columns
                .iter()
                .map(|metric| summary(self.summary(*configuration, workload, *metric)));
            cells.extend(values);
            line(text, cells);
        }
        text.push('\n');
        for (number, (configuration, gap)) in gaps.iter().enumerate() {
            let gap = gap.lines().next().unwrap_or_default();
            let _ = writeln!(text, "({}) {configuration}: {gap}\n", number + 1);
        }
    }

    /// All workloads under all configurations that have a log.
    fn replication_table(&self, text: &mut String) {
        text.push_str("## The log, outputs, and the backup\n\n");
        let mut titles = vec!["workload", "guest on"];
        titles.extend(REPLICATION.map(Metric::title));
        head(text, &titles);
        for workload in &self.workloads {
            for configuration in &self.configurations {
                let values =
                    REPLICATION.map(|metric| self.summary(*configuration, *workload, metric));
                if values.iter().all(Option::is_none) {
                    continue;
                }
                let names = [workload.to_string(), configuration.to_string()];
                line(text, names.into_iter().chain(values.map(summary)));
            }
        }
        text.push('\n');
    }

    /// Throughput and latency along an axis, and the gaps.
    fn growth_table(&self, text: &mut String, axis: Axis) {
        let on_it = |sample: &&Sample| axis.value(&sample.condition).is_some();
        let grown = self.samples.iter().filter(on_it);
        if grown.clone().all(|sample| sample.condition.is_usual()) {
            return;
        }
        let _ = writeln!(
            text,
            "## Growth: {}\n\n{}.\n",
            axis.title(),
            schedule::GROWTH
        );
        let metrics = [
            Metric::Throughput,
            Metric::LatencyP50,
            Metric::LatencyP99,
            Metric::HoldP99,
            Metric::LagP99,
            Metric::ChannelMbit,
        ];
        let mut titles = vec!["guest on", axis.title(), schedule::GROWTH.unit()];
        titles.extend(metrics[1..].iter().map(|metric| metric.title()));
        head(text, &titles);
        for configuration in &self.configurations {
            for at in axis.values() {
                let values = metrics.map(|metric| {
                    let points = self.growth(axis, *configuration, metric);
                    points
                        .iter()
                        .find(|(value, _)| value == at)
                        .map(|(_, found)| *found)
                });
                if values.iter().any(Option::is_some) {
                    let names = [configuration.to_string(), at.to_string()];
                    line(text, names.into_iter().chain(values.map(summary)));
                }
            }
        }
        text.push('\n');
        for sample in grown {
            if let super::Outcome::Gap { reason } = &sample.outcome
                && let Some(at) = axis.value(&sample.condition)
            {
                let _ = writeln!(text, "Not {at} with {}: {reason}\n", sample.configuration);
            }
        }
    }

    fn paper_table(&self, text: &mut String) {
        text.push_str(
            "## Beside the paper\n\nVMware FT, Scales et al. 2010. Their programs and machines were \
             others; ours is what comes nearest. Their figures of failover and of QEMU COLO do not \
             exist.\n\n",
        );
        head(text, &["theirs", "", "ours", ""]);
        for row in paper::ROWS {
            let ours = row.ours(self).unwrap_or_else(|| {
                let under = [Configuration::LoggedReads, Configuration::Alone];
                let mut gaps = under.iter().filter_map(|one| self.gap(*one, row.workload));
                let gap = gaps.next().unwrap_or("not measured".to_owned());
                format!("– ({})", gap.lines().next().unwrap_or_default())
            });
            let cells = [row.theirs, row.value, row.workload.title(), &ours];
            line(text, cells.map(str::to_owned));
        }
        text.push('\n');
    }

    fn failures(&self, text: &mut String) {
        let failed = self
            .samples
            .iter()
            .filter_map(|sample| match &sample.outcome {
                super::Outcome::Failed { reason } => Some((sample, reason)),
                super::Outcome::Measured { .. } | super::Outcome::Gap { .. } => None,
            });
        let mut any = false;
        for (sample, reason) in failed {
            if !any {
                text.push_str("## What failed\n\n");
                any = true;
            }
            let _ = writeln!(
                text,
                "- round {}, {}, {}: {}",
                sample.round,
                sample.configuration,
                sample.workload,
                reason.replace('\n', "\n  ")
            );
        }
        if any {
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.012"),
            (1.2345, "1.23"),
            (45.67, "45.7"),
            (456.7, "457"),
            (4567.0, "4567"),
            (45678.0, "45\u{202f}678"),
            (-1_234_567.0, "-1\u{202f}234\u{202f}567"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn a_report_has_every_row_and_says_why_one_is_empty() {
        use Configuration::{Alone, LoggedReads, Qemu};
        let record = record(&[
            (1, Qemu, Workload::RedisSet, 400.0),
            (2, Qemu, Workload::RedisSet, 420.0),
            (1, Alone, Workload::RedisSet, 380.0),
            (2, Alone, Workload::RedisSet, 399.0),
            (1, LoggedReads, Workload::RedisSet, -1.0),
        ]);
        let text = record.to_markdown(&record.plots());
        assert!(
            text.contains("| QEMU with KVM | 410 ± 10.0 | 1.00 | 1.05 |"),
            "{text}"
        );
        assert!(
            text.contains("| ftvm alone | 390 ± 9.50 | 0.95 | 1.00 |"),
            "{text}"
        );
        assert!(
            text.contains("ftvm replicated: failed: it fell over"),
            "{text}"
        );
        assert!(text.contains("- round 1, ftvm replicated, Redis SET: it fell over"));
        assert!(text.contains("without a disk"), "{text}");
        for plot in record.plots() {
            let shown = format!("]({})", plot.name);
            assert_eq!(text.matches(&shown).count(), 1, "{}", plot.name);
        }
        for workload in Workload::ALL {
            assert!(text.contains(&format!("## {workload}\n")));
        }
        // Every line of a table has as many cells as its head.
        let mut cells = None;
        for line in text.lines() {
            let count = line.starts_with('|').then(|| line.matches('|').count());
            if let (Some(before), Some(now)) = (cells, count) {
                assert_eq!(before, now, "{line}");
            }
            cells = count;
        }
    }
}
