//! What changed between two records beyond the noise.

use std::fmt::Write as _;

use super::configuration::Configuration;
use super::record::Record;
use super::sample::Metric;
use super::statistics::Summary;
use super::workload::Workload;

/// Medians must lie so many spreads apart. A spread is a median of distances; of a normal
/// distribution, three of them are two standard deviations.
const SPREADS: f64 = 3.0;
/// With fewer rounds than this in one of the records, its spread says nothing, and changes have to
/// be as large as [`UNKNOWN_NOISE`].
const ROUNDS: usize = 3;
/// Part of the old value which a change must have at least. What is measured twice with nothing
/// changed differs by a few hundredths.
const LEAST: f64 = 0.03;
/// The same where the noise is not known.
const UNKNOWN_NOISE: f64 = 0.25;
/// Throughput in proportion to that under these says something where the machines differ, too.
const RATIOS: [Configuration; 2] = [Configuration::Qemu, Configuration::Alone];
/// A machine that is faster or slower by this part is another one.
const OTHER_SPEED: f64 = 0.1;

/// A figure that differs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Under what.
    pub configuration: Configuration,
    /// What the guest did.
    pub workload: Workload,
    /// Which figure.
    pub metric: Metric,
    /// In proportion to what, if it is a ratio.
    pub to: Option<Configuration>,
    /// In the old record.
    pub old: Summary,
    /// In the new one.
    pub new: Summary,
    /// Whether it is better now.
    pub better: bool,
}

/// Two records side by side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// What differs beyond the noise.
    pub changes: Vec<Change>,
    /// How many figures do not.
    pub same: usize,
    /// What was measured then and is a gap now.
    pub lost: Vec<(Configuration, Workload, String)>,
    /// Where the machines differ: name, then, now. Absolute figures then mean little.
    pub machines: Vec<(String, String, String)>,
}

impl Comparison {
    /// Compares two records.
    #[must_use]
    pub fn of(old: &Record, new: &Record) -> Self {
        let mut comparison = Self::default();
        for workload in Workload::ALL {
            for configuration in Configuration::ALL {
                comparison.add(old, new, configuration, workload);
            }
        }
        let now: Vec<_> = new.machine.lines().collect();
        // The commit is what is compared.
        for (name, then) in old.machine.lines().filter(|(name, _)| *name != "commit") {
            let now = now.iter().find(|(other, _)| *other == name);
            let now = now.map_or("", |(_, value)| value);
            if now != then {
                comparison
                    .machines
                    .push((name.to_owned(), then, now.to_owned()));
            }
        }
        let speeds = old.speed().zip(new.speed());
        let speeds = speeds.map(|(old, new)| (old.median, new.median));
        if let Some((then, now)) = speeds
            && (now / then - 1.0).abs() > OTHER_SPEED
        {
            let [then, now] = [then, now].map(super::report::figure);
            let name = "the speed of the machine, in steps of a loop in a µs,";
            comparison.machines.push((name.to_owned(), then, now));
        }
        comparison
    }

    fn add(
        &mut self,
        old: &Record,
        new: &Record,
        configuration: Configuration,
        workload: Workload,
    ) {
        if old.gap(configuration, workload).is_none()
            && let Some(reason) = new.gap(configuration, workload)
            && new.of(configuration, workload).next().is_some()
        {
            self.lost.push((configuration, workload, reason));
        }
        let ratios = RATIOS.into_iter().filter(|to| *to != configuration);
        let ratios = ratios.map(|to| (Metric::Throughput, Some(to)));
        for (metric, to) in Metric::ALL
            .map(|metric| (metric, None))
            .into_iter()
            .chain(ratios)
        {
            let summary = |record: &Record| match to {
                None => record.summary(configuration, workload, metric),
                Some(to) => record.ratio(configuration, to, workload, metric),
            };
            let (Some(old), Some(new)) = (summary(old), summary(new)) else {
                continue;
            };
            if !differs(&old, &new) {
                self.same += 1;
                continue;
            }
            self.changes.push(Change {
                configuration,
                workload,
                metric,
                to,
                old,
                new,
                better: (new.median > old.median) == metric.more_is_better(),
            });
        }
    }

    /// It, for people.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("## Compared with the old record\n\n");
        for (name, then, now) in &self.machines {
            let _ = writeln!(
                text,
                "**The machines differ**: {name} was `{then}` and is `{now}`. Compare ratios only.\n"
            );
        }
        for (configuration, workload, reason) in &self.lost {
            let _ = writeln!(
                text,
                "**Gone**: {workload} under {configuration}: {reason}\n"
            );
        }
        if self.changes.is_empty() {
            let _ = writeln!(text, "Nothing changed beyond the noise.\n");
        } else {
            text.push_str("| workload | guest on | figure | old | new | change | |\n");
            text.push_str("| --- | --- | --- | ---: | ---: | ---: | --- |\n");
            for change in &self.changes {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    change.workload,
                    change.configuration,
                    change.title(),
                    super::report::figure(change.old.median),
                    super::report::figure(change.new.median),
                    percent(change),
                    if change.better { "better" } else { "worse" },
                );
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{} figures are the same within the noise: {SPREADS} spreads, and {:.0} % at least.",
            self.same,
            LEAST * 100.0
        );
        text
    }
}

impl Change {
    /// The figure's name.
    fn title(&self) -> String {
        let metric = self.metric.title();
        match self.to {
            None => metric.to_owned(),
            Some(to) => format!("{metric}, to {to}"),
        }
    }
}

fn percent(change: &Change) -> String {
    if change.old.median == 0.0 {
        return "from nothing".to_owned();
    }
    let part = change.new.median / change.old.median - 1.0;
    format!("{:+.1} %", part * 100.0)
}

/// Whether two summaries differ beyond the noise.
fn differs(old: &Summary, new: &Summary) -> bool {
    let distance = (new.median - old.median).abs();
    let known = old.count >= ROUNDS && new.count >= ROUNDS;
    let least = if known { LEAST } else { UNKNOWN_NOISE };
    let noise = SPREADS * old.spread.max(new.spread);
    distance > noise && distance > least * old.median.abs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::machine_state::MachineState;
    use super::super::record::tests::record;
    use super::super::sample::Outcome;
    use super::*;

    fn series(values: &[f64]) -> Record {
        let values: Vec<_> = values
            .iter()
            .zip(1..)
            .map(|(value, round)| (round, Configuration::Alone, Workload::RedisSet, *value))
            .collect();
        record(&values)
    }

    #[test]
    fn noise_is_no_change_and_a_change_is() {
        let old = series(&[100.0, 103.0, 98.0, 101.0]);
        let noise = Comparison::of(&old, &series(&[99.0, 102.0, 100.0, 104.0]));
        assert_eq!((noise.changes.len(), noise.same), (0, 1));
        let slower = Comparison::of(&old, &series(&[80.0, 81.0, 79.0]));
        let [change] = slower.changes[..] else {
            panic!("one change: {slower:?}");
        };
        assert!(!change.better && change.metric == Metric::Throughput);
        let text = slower.to_markdown();
        assert!(text.contains("-20.4 %") && text.contains("worse"), "{text}");
        let faster = Comparison::of(&series(&[80.0, 81.0, 79.0]), &old);
        assert!(faster.changes[0].better);
    }

    #[test]
    fn one_round_each_says_little() {
        let old = series(&[100.0]);
        assert_eq!(Comparison::of(&old, &series(&[85.0])).changes, []);
        assert_eq!(Comparison::of(&old, &series(&[60.0])).changes.len(), 1);
    }

    /// Of QEMU's throughput and that of `ftvm` alone, on a machine of a speed.
    fn at_speed(speed: f64, rounds: &[(f64, f64)]) -> Record {
        use Configuration::{Alone, Qemu};
        let values = rounds.iter().zip(1..).flat_map(|((qemu, alone), round)| {
            let set = Workload::RedisSet;
            [
                (round, Qemu, set, qemu * speed),
                (round, Alone, set, alone * speed),
            ]
        });
        let mut record = record(&values.collect::<Vec<_>>());
        for sample in &mut record.samples {
            if let Outcome::Measured { figures } = &mut sample.outcome {
                figures.machine = Some(MachineState { speed, stolen: 0.0 });
            }
        }
        record
    }

    #[test]
    fn a_machine_that_is_slower_now_is_told_and_ratios_are_compared_all_the_same() {
        let old = at_speed(200.0, &[(10.0, 9.0), (10.2, 9.1), (9.9, 9.0)]);
        let slower = at_speed(90.0, &[(10.0, 9.0), (10.1, 9.1), (9.9, 9.1)]);
        let text = Comparison::of(&old, &slower).to_markdown();
        assert!(
            text.contains("the speed of the machine") && text.contains("`90.0`"),
            "{text}"
        );
        assert!(!text.contains("throughput, to"), "{text}");
        let worse = at_speed(200.0, &[(10.0, 6.0), (10.2, 6.1), (9.9, 6.0)]);
        let comparison = Comparison::of(&old, &worse);
        assert_eq!(comparison.machines, []);
        let text = comparison.to_markdown();
        assert!(
            text.contains("throughput, to QEMU with KVM | 0.900 | 0.600"),
            "{text}"
        );
    }

    #[test]
    fn what_fails_now_is_told_and_so_is_another_machine() {
        let old = series(&[100.0, 100.0]);
        let mut new = series(&[-1.0]);
        new.machine.kernel = "6.12".to_owned();
        let mut old_elsewhere = old.clone();
        old_elsewhere.machine.kernel = "6.1".to_owned();
        old_elsewhere.machine.commit = "abc".to_owned();
        let comparison = Comparison::of(&old_elsewhere, &new);
        assert_eq!(comparison.lost.len(), 1);
        assert_eq!(comparison.machines.len(), 1, "{comparison:?}");
        // What was left out of the new run on purpose is not lost.
        assert_eq!(Comparison::of(&old, &series(&[])).lost, []);
    }

    proptest! {
        #[test]
        fn a_record_does_not_differ_from_itself_in_any_order(
            mut values in prop::collection::vec(0.0..1e6_f64, 1..9),
        ) {
            let old = series(&values);
            values.reverse();
            prop_assert_eq!(Comparison::of(&old, &series(&values)).changes, []);
        }

        #[test]
        fn the_change_back_goes_the_other_way(
            a in prop::collection::vec(100.0..110.0_f64, 3..6),
            b in prop::collection::vec(500.0..510.0_f64, 3..6),
        ) {
            let (a, b) = (series(&a), series(&b));
            let there = Comparison::of(&a, &b);
            let back = Comparison::of(&b, &a);
            prop_assert_eq!(there.changes.len(), 1);
            prop_assert!(there.changes[0].better && !back.changes[0].better);
        }
    }
}
