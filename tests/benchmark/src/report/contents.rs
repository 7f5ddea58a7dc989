//! What is in a figure, other than a throughput, whose target is missed.

use std::collections::BTreeMap;

use super::{figure, head, line};
use crate::configuration::Configuration::{self, Alone, Colo, LoggedReads};
use crate::record::Record;
use crate::sample::{Figures, HostFigures, Metric, Sample};
use crate::statistics::{Summary, medians};
use crate::workload::Workload;

/// Parts of a figure that are named: the largest ones.
const NAMED: usize = 5;

/// A figure that can be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// The log's megabits in a second.
    Log,
    /// Exits for a request, under `ftvm` alone.
    Exits,
    /// How long outputs are held.
    Hold,
    /// The backup's lag.
    Lag,
    /// Bytes between the hosts for a request.
    Channel,
    /// A metric in proportion to that of QEMU COLO.
    ToColo(Metric),
}

/// A target that is missed.
pub(super) struct Miss {
    pub(super) target: &'static str,
    pub(super) workload: Workload,
    /// What was measured in proportion to the target.
    pub(super) to_bound: f64,
    pub(super) whole: Whole,
}

/// Bytes in a second of each kind, by how many there are and how long they are.
pub(super) fn bytes_by_kind(
    rates: &BTreeMap<String, f64>,
    sizes: &BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    let bytes = |(kind, rate): (&String, &f64)| Some((kind.clone(), rate * sizes.get(kind)?));
    rates.iter().filter_map(bytes).collect()
}

/// Bytes in a second of each kind of entry.
fn entries(figures: &Figures) -> Option<BTreeMap<String, f64>> {
    let log = figures.vmm.as_ref()?.log.as_ref()?;
    Some(bytes_by_kind(&log.entries_per_second, &log.bytes_per_entry))
}

/// What is in a second, for each of its requests.
fn of_a_request(
    figures: &Figures,
    mut parts: BTreeMap<String, f64>,
) -> Option<BTreeMap<String, f64>> {
    let requests = figures.throughput.filter(|rate| *rate > 0.0)?;
    parts.values_mut().for_each(|rate| *rate /= requests);
    Some(parts)
}

/// What is on the channel for a request: entries by their kinds, and what carries them.
fn channel(figures: &Figures) -> Option<BTreeMap<String, f64>> {
    let mut parts = entries(figures)?;
    let all = figures.primary.as_ref()?.channel_mbit * 1e6 / 8.0;
    let rest = all - parts.values().sum::<f64>();
    parts.insert("headers, acknowledgements, heartbeats".to_owned(), rest);
    of_a_request(figures, parts)
}

/// Exits for a request: those that `ftvm` handles by what they are for, and those that are over before it
/// hears of them.
fn exits(figures: &Figures) -> Option<BTreeMap<String, f64>> {
    const KVMS_OWN: [(&str, &str); 2] = [
        ("irq_exits", "interrupts of the host"),
        ("pf_taken", "pages that the host had to map"),
    ];
    let mut parts = figures.vmm.as_ref()?.exits_per_second.clone();
    let kvm = &figures.primary.as_ref()?.kvm_per_second;
    let own = KVMS_OWN
        .iter()
        .filter_map(|(counter, name)| Some((name.to_string(), *kvm.get(*counter)?)));
    parts.extend(own);
    of_a_request(figures, parts)
}

impl Record {
    /// The medians of a figure's parts, the largest first.
    fn parts(
        &self,
        configuration: Configuration,
        workload: Workload,
        of: impl Fn(&Figures) -> Option<BTreeMap<String, f64>>,
    ) -> Vec<(String, f64)> {
        let figures = self.of(configuration, workload);
        let figures = figures.filter_map(Sample::figures);
        let rounds: Vec<BTreeMap<String, f64>> = figures.filter_map(of).collect();
        let medians = medians(&rounds).into_iter();
        let mut parts: Vec<_> = medians.filter(|(_, median)| *median > 0.0).collect();
        parts.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        parts
    }

    /// What a figure is made of, in words.
    fn contents(&self, workload: Workload, whole: Whole) -> String {
        let parts = match whole {
            Whole::Log => self.parts(LoggedReads, workload, |figures| {
                let mbit = entries(figures)?.into_iter();
                Some(mbit.map(|(kind, rate)| (kind, rate * 8.0 / 1e6)).collect())
            }),
            Whole::Exits => self.parts(Alone, workload, exits),
            Whole::Channel => self.parts(LoggedReads, workload, channel),
            Whole::Hold => self.waits(workload, &[Metric::RoundTrip, Metric::HoldP99]),
            Whole::Lag => self.waits(workload, &[Metric::LagP50, Metric::LagMax]),
            Whole::ToColo(metric) => [LoggedReads, Colo]
                .into_iter()
                .filter_map(|one| {
                    let value = self.summary(one, workload, metric)?.median;
                    Some((one.to_string(), value))
                })
                .collect(),
        };
        let words = parts.into_iter().take(NAMED);
        let words = words.map(|(part, value)| format!("{part} {}", figure(value)));
        words.collect::<Vec<_>>().join("; ")
    }

    /// Metrics beside what is waited for, and how much of a second each host's processor has nothing
    /// to do: one that always has something lets what arrives wait.
    fn waits(&self, workload: Workload, beside: &[Metric]) -> Vec<(String, f64)> {
        let metrics = beside.iter().filter_map(|metric| {
            let value = self.summary(LoggedReads, workload, *metric)?.median;
            Some((metric.title().to_owned(), value))
        });
        let idle = |host: fn(&Figures) -> Option<&HostFigures>| {
            let figures = self.of(LoggedReads, workload);
            let figures = figures.filter_map(Sample::figures).filter_map(host);
            let idle = figures.filter_map(|host| host.profile.get("host: idle").copied());
            Summary::of(idle).map(|idle| idle.median)
        };
        let hosts = [
            (
                "primary's host idle, s/s",
                idle(|figures| figures.primary.as_ref()),
            ),
            (
                "backup's host idle, s/s",
                idle(|figures| figures.backup.as_ref()),
            ),
        ];
        let hosts = hosts
            .into_iter()
            .filter_map(|(host, idle)| Some((host.to_owned(), idle?)));
        metrics.chain(hosts).collect()
    }

    pub(super) fn contents_table(&self, text: &mut String, missed: &[Miss]) {
        if missed.is_empty() {
            return;
        }
        text.push_str(
            "## What is in the other figures that are missed\n\nOf a log, Mbit/s by kind of entry; of \
             exits, by what they are for; of bytes on the channel, by what has them, for a request. \
             Beside an output's hold and the backup's lag, how long the hosts' processors had nothing \
             to do: on one that always has something, what arrives waits for its turn.\n\n",
        );
        head(
            text,
            &["target", "workload", "of its bound", "what is in it"],
        );
        for miss in missed {
            line(
                text,
                [
                    miss.target.to_owned(),
                    miss.workload.to_string(),
                    format!("{} ×", figure(miss.to_bound)),
                    self.contents(miss.workload, miss.whole),
                ],
            );
        }
        text.push('\n');
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::tests::record;
    use crate::sample::{LogFigures, Outcome, Times, VmmFigures};

    pub(in crate::report) fn kinds(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        let values = values.iter();
        values
            .map(|(kind, value)| (kind.to_string(), *value))
            .collect()
    }

    fn redis() -> Record {
        let mut record = record(&[
            (1, Alone, Workload::RedisSet, 200.0),
            (1, LoggedReads, Workload::RedisSet, 100.0),
            (1, Colo, Workload::RedisSet, 50.0),
        ]);
        for sample in &mut record.samples {
            let Outcome::Measured { figures } = &mut sample.outcome else {
                panic!("measured");
            };
            let mut vmm = VmmFigures {
                exits_per_second: kinds(&[
                    ("halt", 100.0),
                    ("virtio-notify", 400.0),
                    ("trap", 0.0),
                ]),
                ..VmmFigures::default()
            };
            let mut host = HostFigures {
                profile: kinds(&[("guest", 0.75), ("host: idle", 0.25)]),
                kvm_per_second: kinds(&[("exits", 800.0), ("irq_exits", 300.0)]),
                ..HostFigures::default()
            };
            if sample.configuration == LoggedReads {
                vmm.log = Some(LogFigures {
                    entries_per_second: kinds(&[("net-rx", 100.0), ("tick", 200.0), ("tsc", 1.0)]),
                    bytes_per_entry: kinds(&[("net-rx", 125.0), ("tick", 25.0)]),
                    round_trip_ms: Some(2.0),
                    ..LogFigures::default()
                });
                vmm.lag = Some(Times {
                    p50: 20.0,
                    p99: 40.0,
                    max: 60.0,
                    count: 100,
                });
                // 250 bytes a request.
                host.channel_mbit = 0.2;
                figures.backup = Some(host.clone());
            }
            figures.vmm = Some(vmm);
            figures.primary = Some(host);
        }
        record
    }

    #[test]
    fn figures_are_taken_apart_by_their_largest_parts() {
        let record = redis();
        let of = |whole| record.contents(Workload::RedisSet, whole);
        assert_eq!(of(Whole::Log), "net-rx 0.100; tick 0.040");
        assert_eq!(
            of(Whole::Exits),
            "virtio-notify 2.00; interrupts of the host 1.50; halt 0.500"
        );
        assert_eq!(
            of(Whole::Channel),
            "net-rx 125; headers, acknowledgements, heartbeats 75.0; tick 50.0"
        );
        assert_eq!(
            of(Whole::ToColo(Metric::Throughput)),
            "ftvm replicated 100; QEMU COLO 50.0"
        );
        assert_eq!(
            of(Whole::Hold),
            "round trip, ms 2.00; primary's host idle, s/s 0.250; backup's host idle, s/s 0.250"
        );
        assert!(
            of(Whole::Lag).starts_with("lag p50, ms 20.0; lag max, ms 60.0; primary's"),
            "{}",
            of(Whole::Lag)
        );
        let text = record.contents(Workload::Compute, Whole::Log);
        assert_eq!(text, "", "nothing was measured");
    }

    #[test]
    fn every_miss_is_a_row_and_without_one_there_is_no_table() {
        let record = redis();
        let mut text = String::new();
        record.contents_table(&mut text, &[]);
        assert_eq!(text, "");
        let miss = Miss {
            target: "exits a request",
            workload: Workload::RedisSet,
            to_bound: 1.1,
            whole: Whole::Exits,
        };
        record.contents_table(&mut text, &[miss]);
        let row = "| exits a request | Redis SET | 1.10 × | virtio-notify 2.00; interrupts of the host \
                   1.50; halt 0.500 |";
        assert!(text.contains(row), "{text}");
    }
}
