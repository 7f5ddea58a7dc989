//! What `ftvm` is to reach, and whether it did.

use std::fmt::Write as _;

use super::contents::{Miss, Whole, bytes_by_kind};
use super::missed::Pair;
use super::network::Limit;
use super::{figure, head, line};
use crate::configuration::Configuration::{self, Alone, Colo, LoggedReads, Qemu};
use crate::record::Record;
use crate::sample::{Figures, Metric, Sample};
use crate::workload::Workload;

/// Ticks of Debian's kernel in a second.
const TICKS: f64 = 250.0;

/// The target that the logging network may put out of reach.
const REPLICATED: &str = "throughput: replicated / alone";
const ALONE: &str = "throughput: alone / QEMU";
const LOG: &str = "log, Mbit/s";
const HOLD: &str = "output hold p50, ms";
const LAG: &str = "lag p99, ms";
const EXITS: &str = "exits a request";
const COLO_THROUGHPUT: &str = "requests/s: replicated / COLO";
const COLO_LATENCY: &str = "latency p50: replicated / COLO";
const COLO_CHANNEL: &str = "channel bytes a request: replicated / COLO";
/// Those that nearly every workload has: a column each.
const COLUMNS: [&str; 5] = [REPLICATED, ALONE, LOG, HOLD, LAG];

/// A target, and what was measured.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    /// What is bounded.
    what: &'static str,
    workload: Workload,
    measured: f64,
    bound: Bound,
    /// The most that the logging network leaves, where that is what bounds it.
    left: Option<f64>,
}

/// How it is bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(&self) -> bool {
        self.bound.holds(self.measured)
    }

    /// What was measured, and all that a column's head does not say.
    fn cell(&self, bound: bool) -> String {
        let mut text = figure(self.measured);
        if !self.is_met() {
            text = format!("**{text}**");
        }
        if bound {
            let _ = write!(text, " ({})", self.bound.words());
        }
        if let Some(left) = self.left.filter(|_| !self.is_met()) {
            let _ = write!(text, " (the network leaves {})", figure(left));
        }
        text
    }

    /// What the figure is made of, where it is no throughput between two configurations of `ftvm` and
    /// QEMU without a backup.
    fn whole(&self) -> Option<Whole> {
        Some(match self.what {
            LOG => Whole::Log,
            HOLD => Whole::Hold,
            LAG => Whole::Lag,
            EXITS => Whole::Exits,
            COLO_THROUGHPUT => Whole::ToColo(Metric::Throughput),
            COLO_LATENCY => Whole::ToColo(Metric::LatencyP50),
            COLO_CHANNEL => Whole::Channel,
            _ => return None,
        })
    }

    /// How it was missed, if the table of contents has it.
    fn miss(&self) -> Option<Miss> {
        let (Bound::AtLeast(bound) | Bound::AtMost(bound)) = self.bound;
        Some(Miss {
            target: self.what,
            workload: self.workload,
            to_bound: self.measured / bound,
            whole: self.whole()?,
        })
    }

    /// Whose throughput it is, and in proportion to whose.
    fn pair(&self) -> Option<Pair> {
        let (slow, fast) = match self.what {
            REPLICATED => (LoggedReads, Alone),
            ALONE => (Alone, Qemu),
            _ => return None,
        };
        let workload = self.workload;
        Some(Pair {
            workload,
            slow,
            fast,
        })
    }
}

impl Bound {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bound) => measured >= bound,
            Self::AtMost(bound) => measured <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {}", super::figure(bound)),
            Self::AtMost(bound) => format!("at most {}", super::figure(bound)),
        }
    }
}

/// All targets for which there are figures.
fn targets(record: &Record) -> Vec<Target> {
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
            ALONE,
            workload,
            ratio(Alone, Qemu, workload, Metric::Throughput),
            Bound::AtLeast(0.9),
        );
        let log_bound = |figures: &Figures| match workload {
            Workload::Idle => Some(0.2),
            _ => logged_input(figures).map(|input| 1.1 * input + 0.2),
        };
        let hold_bound = |figures: &Figures| Some(1.2 * Metric::RoundTrip.of(workload, figures)?);
        for (what, middle) in [
            (LOG, record.middle(workload, Metric::LogMbit, log_bound)),
            (HOLD, record.middle(workload, Metric::HoldP50, hold_bound)),
        ] {
            if let Some((measured, bound)) = middle {
                add(what, workload, Some(measured), Bound::AtMost(bound));
            }
        }
        add(
            LAG,
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
        if workload.asks_one_at_a_time() {
            let exits = median(Alone, Metric::ExitsPerOperation);
            add(EXITS, workload, exits, Bound::AtMost(5.0));
            let to_colo = |metric| ratio(LoggedReads, Colo, workload, metric);
            for (what, metric, bound) in [
                (COLO_THROUGHPUT, Metric::Throughput, Bound::AtLeast(3.0)),
                (COLO_LATENCY, Metric::LatencyP50, Bound::AtMost(0.5)),
                (
                    COLO_CHANNEL,
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

impl Record {
    /// A metric of the replicated guest and its bound, which is another in every round: in the round
    /// in which the one is the median in proportion to the other. Of an even number of rounds, the
    /// worse one of the two in the middle.
    fn middle(
        &self,
        workload: Workload,
        metric: Metric,
        bound: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<(f64, f64)> {
        let figures = self.of(LoggedReads, workload).filter_map(Sample::figures);
        let mut rounds: Vec<(f64, f64)> = figures
            .filter_map(|figures| Some((metric.of(workload, figures)?, bound(figures)?)))
            .collect();
        rounds.sort_by(|(a, a_bound), (b, b_bound)| (a / a_bound).total_cmp(&(b / b_bound)));
        rounds.get(rounds.len() / 2).copied()
    }

    /// What was to be reached, and was or was not.
    pub(super) fn target_tables(&self, text: &mut String) {
        let targets = targets(self);
        if targets.is_empty() {
            return;
        }
        let met = targets.iter().filter(|target| target.is_met()).count();
        let _ = writeln!(
            text,
            "## Targets\n\n{met} of {} are met; what is missed is **bold**. The bound of the log is \
             1.1 × what came in from network and disk + 0.2 Mbit/s, that of the output hold a round \
             trip of the logging network + 20 %. Both are of the round in which the figure is the \
             median in proportion to its bound.\n",
            targets.len()
        );
        let common = COLUMNS.map(|what| common_bound(&targets, what));
        let title = |(what, common): (&str, Option<Bound>)| match common {
            Some(bound) => format!("{what}: {}", bound.words()),
            None => what.to_owned(),
        };
        let titles = COLUMNS.into_iter().zip(common).map(title);
        let titles: Vec<String> = std::iter::once("workload".to_owned())
            .chain(titles)
            .collect();
        head(text, &titles.iter().map(String::as_str).collect::<Vec<_>>());
        for workload in &self.workloads {
            let cells = COLUMNS.into_iter().zip(common).map(|(what, common)| {
                let of = |target: &&Target| target.what == what && target.workload == *workload;
                let target = targets.iter().find(of);
                target.map_or("–".to_owned(), |target| target.cell(common.is_none()))
            });
            line(text, std::iter::once(workload.to_string()).chain(cells));
        }
        text.push('\n');
        let mut others = targets
            .iter()
            .filter(|target| !COLUMNS.contains(&target.what))
            .peekable();
        if others.peek().is_some() {
            head(text, &["target", "workload", "bound", "measured"]);
        }
        for target in others {
            let names = [target.what.to_owned(), target.workload.to_string()];
            let cells = [target.bound.words(), target.cell(false)];
            line(text, names.into_iter().chain(cells));
        }
        text.push('\n');
        let missed = || targets.iter().filter(|target| !target.is_met());
        let pairs: Vec<Pair> = missed().filter_map(Target::pair).collect();
        self.missed_table(text, &pairs);
        let mut misses: Vec<Miss> = missed().filter_map(Target::miss).collect();
        misses.sort_by_key(|miss| miss.target);
        self.contents_table(text, &misses);
    }
}

/// The bound that all workloads have, if it is the same.
fn common_bound(targets: &[Target], what: &str) -> Option<Bound> {
    let mut bounds = targets
        .iter()
        .filter(|target| target.what == what)
        .map(|target| target.bound);
    let first = bounds.next()?;
    bounds.all(|bound| bound == first).then_some(first)
}

/// What came in from the network, and from the disk as far as the log has that, in megabits in a
/// second.
fn logged_input(figures: &Figures) -> Option<f64> {
    let host = figures.primary.as_ref()?;
    let log = figures.vmm.as_ref()?.log.as_ref()?;
    let frames = bytes_by_kind(&host.frames_per_second, &host.bytes_per_frame);
    let entries = bytes_by_kind(&log.entries_per_second, &log.bytes_per_entry);
    let inputs = [frames.get("received"), entries.get("disk-data")];
    Some(inputs.into_iter().flatten().sum::<f64>() * 8.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::contents::tests::kinds;
    use super::*;
    use crate::record::tests::record;
    use crate::sample::{HostFigures, LogFigures, Outcome, VmmFigures};

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
            [(REPLICATED, false), (ALONE, true), (COLO_THROUGHPUT, true),]
        );
    }

    #[test]
    fn a_table_has_what_was_missed_in_bold_and_the_bound_where_it_is_everyones() {
        let record = record(&[
            (1, Qemu, Workload::RedisSet, 400.0),
            (1, Alone, Workload::RedisSet, 380.0),
            (1, LoggedReads, Workload::RedisSet, 190.0),
            (1, Colo, Workload::RedisSet, 100.0),
            (1, Alone, Workload::Compute, 40.0),
            (1, LoggedReads, Workload::Compute, 40.0),
        ]);
        let mut text = String::new();
        record.target_tables(&mut text);
        for expected in [
            "2 of 4 are met".to_owned(),
            "replicated / alone: at least 0.950 |".to_owned(),
            "| Redis SET | **0.500** | 0.950 | – | – | – |".to_owned(),
            format!("| {} | 1.00 | – | – | – | – |", Workload::Compute),
            "| requests/s: replicated / COLO | Redis SET | at least 3.00 | **1.90** |".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected}: {text}");
        }
    }

    #[test]
    fn bounds_that_differ_are_told_with_each_figure() {
        let target = |workload, bound| Target {
            what: LOG,
            workload,
            measured: 1.0,
            bound: Bound::AtMost(bound),
            left: None,
        };
        let targets = [target(Workload::Idle, 0.2), target(Workload::RedisSet, 2.0)];
        assert_eq!(common_bound(&targets, LOG), None);
        assert_eq!(common_bound(&targets[..1], LOG), Some(Bound::AtMost(0.2)));
        let cells = targets.map(|target| target.cell(true));
        assert_eq!(cells, ["**1.00** (at most 0.200)", "1.00 (at most 2.00)"]);
    }

    /// Figures of a replicated guest whose log is of so many megabits in a second, with so many
    /// entries of what the disk gave.
    fn logging(log_mbit: f64, disk_entries: f64) -> Figures {
        let log = LogFigures {
            mbit: log_mbit,
            entries_per_second: kinds(&[("net-rx", 1000.0), ("disk-data", disk_entries)]),
            bytes_per_entry: kinds(&[("net-rx", 1250.0), ("disk-data", 12_500.0)]),
            ..LogFigures::default()
        };
        let vmm = VmmFigures {
            log: Some(log),
            ..VmmFigures::default()
        };
        let primary = HostFigures {
            frames_per_second: kinds(&[("received", 1000.0), ("sent", 9000.0)]),
            bytes_per_frame: kinds(&[("received", 125.0), ("sent", 1250.0)]),
            ..HostFigures::default()
        };
        Figures {
            vmm: Some(vmm),
            primary: Some(primary),
            ..Figures::default()
        }
    }

    #[test]
    fn what_comes_in_is_what_the_guest_receives_and_not_what_the_log_makes_of_it() {
        let input = logged_input(&logging(11.0, 10.0)).expect("something came in");
        assert!((input - 2.0).abs() < 1e-9, "{input}");
    }

    #[test]
    fn a_bound_of_each_round_is_held_against_the_figure_of_that_round() {
        // Bounds of 1.3, 1.3 and 12.3: a bound of the medians would be 1.3, for a log of 2.0.
        let rounds = [(2.0, 0.0), (1.0, 0.0), (11.0, 100.0)];
        let log = |rounds: &[(f64, f64)]| {
            let mut record =
                record(&[(1, LoggedReads, Workload::RedisSet, 100.0); 3][..rounds.len()]);
            for (sample, (mbit, entries)) in record.samples.iter_mut().zip(rounds) {
                let figures = Box::new(logging(*mbit, *entries));
                sample.outcome = Outcome::Measured { figures };
            }
            let targets = targets(&record);
            let target = targets.iter().find(|target| target.what == LOG);
            let target = target.expect("there is a log");
            (target.measured, target.bound.words())
        };
        assert_eq!(log(&rounds), (11.0, "at most 12.3".to_owned()));
        assert_eq!(
            log(&rounds[..2]),
            (2.0, "at most 1.30".to_owned()),
            "the worse one"
        );
    }

    #[test]
    fn what_was_not_measured_is_no_target() {
        let record = record(&[(1, Qemu, Workload::Compute, 40.0)]);
        assert_eq!(targets(&record), []);
    }
}
