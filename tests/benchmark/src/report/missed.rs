//! Why a throughput is missed: what the same work takes longer with.

use super::time::{Part, Parts};
use super::{figure, head, line};
use crate::configuration::Configuration;
use crate::record::Record;
use crate::statistics::{Summary, medians, ratios};
use crate::workload::Workload;

/// One configuration that is slower than it should be, and the one that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) workload: Workload,
    pub(super) slow: Configuration,
    pub(super) fast: Configuration,
}

/// A difference, with its sign.
fn signed(value: f64) -> String {
    match figure(value) {
        text if text == "0" || text.starts_with('-') => text,
        text => format!("+{text}"),
    }
}

impl Record {
    /// What the work of a second of the fast one takes longer with on the slow one, in seconds: the
    /// median over the rounds that have both.
    fn longer(&self, pair: Pair) -> Option<Parts> {
        let slow = self.work(pair.slow, pair.workload, pair.fast);
        let fast = self.work(pair.fast, pair.workload, pair.fast);
        let difference = |(round, slow): (&u32, &Parts)| {
            let fast = fast.get(round)?;
            let of = |parts: &Parts, part| parts.get(&part).copied().unwrap_or(0.0);
            let part = |part: Part| (part, of(slow, part) - of(fast, part));
            Some(Part::ALL.into_iter().map(part).collect())
        };
        let rounds: Vec<Parts> = slow.iter().filter_map(difference).collect();
        (!rounds.is_empty()).then(|| medians(&rounds))
    }

    /// How fast the machine was while the slow one was measured, in proportion to when the fast one
    /// was.
    fn machine_ratio(&self, pair: Pair) -> Option<Summary> {
        let speeds = |configuration| {
            let samples = self.of(configuration, pair.workload);
            samples
                .filter_map(|sample| Some((sample.round, sample.figures()?.machine?.speed)))
                .collect::<Vec<_>>()
        };
        ratios(&speeds(pair.slow), &speeds(pair.fast))
    }

    pub(super) fn missed_table(&self, text: &mut String, missed: &[Pair]) {
        let rows = missed
            .iter()
            .filter_map(|pair| Some((*pair, self.longer(*pair)?)));
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        text.push_str(
            "## Where the missing throughput is\n\nFor the work that the faster one does in a \
             second: how many seconds longer the slower one takes, and what the host that runs the \
             guest does in them. A guest or a kernel that takes longer for the same work runs on a \
             host with less of the machine, or is interrupted more; idle is a host that waits for \
             its client, for its disk, or for the backup. Where the machine's speed is below 1, others \
             slowed down all that ran on it; or, where hosts share its processors, both were busy \
             before and after the measurement, when a loop of the benchmark tells the speed.\n\n",
        );
        let mut titles = vec!["workload", "slower", "faster", "machine's speed", "longer"];
        titles.extend(Part::ALL.map(Part::title));
        head(text, &titles);
        for (pair, longer) in rows {
            let speed = self.machine_ratio(pair);
            let names = [
                pair.workload.to_string(),
                pair.slow.to_string(),
                pair.fast.to_string(),
                speed.map_or("–".to_owned(), |speed| figure(speed.median)),
                signed(longer.values().sum()),
            ];
            let parts = Part::ALL.map(|part| signed(longer[&part]));
            line(text, names.into_iter().chain(parts));
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::tests::two;
    use super::*;
    use crate::configuration::Configuration::{Alone, LoggedReads, Qemu};

    #[test]
    fn what_the_slower_one_does_more_is_told_by_part() {
        let record = two();
        let pair = Pair {
            workload: Workload::RedisSet,
            slow: LoggedReads,
            fast: Alone,
        };
        let mut text = String::new();
        record.missed_table(&mut text, &[pair]);
        // Twice the time: 1.0 s of work against 2 × (0.3 guest, 0.2 log, 0.5 idle).
        let row = "| Redis SET | ftvm replicated | ftvm alone | – | +1.00 | +0.100 | 0 | 0 | -0.200 \
                   | +0.400 | 0 | -0.200 | +0.900 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn without_profiles_nothing_is_told() {
        let pair = Pair {
            workload: Workload::RedisSet,
            slow: Alone,
            fast: Qemu,
        };
        let mut text = String::new();
        two().missed_table(&mut text, &[pair]);
        assert_eq!(text, "");
    }
}
