//! Where the time of the same work goes, under each configuration.

use plotters::style::RGBColor;

use crate::configuration::Configuration;
use crate::figures::{Figures, PROCESSORS, THROUGHPUT};
use crate::record::Record;
use crate::statistics::Summary;
use crate::workload::Workload;

/// What the processor of the host that runs the guest does: what it is called, its colour, and the
/// names that it has in figures. QEMU's main thread has all its devices; the rest is what has no other
/// name.
#[rustfmt::skip]
pub(super) const PARTS: [(&str, RGBColor, &[&str]); 8] = [
    ("guest", RGBColor(70, 130, 80), &["guest"]),
    ("VMM on the guest's thread", RGBColor(214, 99, 20), &["vCPU thread: VMM"]),
    ("kernel on the guest's thread", RGBColor(250, 180, 110), &["vCPU thread: kernel"]),
    ("network and disk threads", RGBColor(31, 119, 180), &["tap", "disk", "disk-link", "qemu-system-x86"]),
    ("log and output threads", RGBColor(140, 190, 230),
        &["log-sender", "log-acks", "output-gate", "disk-log", "heartbeat", "peer-watch"]),
    ("interrupts", RGBColor(170, 60, 90), &["host: interrupts"]),
    ("rest of the host", RGBColor(150, 150, 150), &[]),
    ("idle", RGBColor(228, 228, 228), &["host: idle"]),
];
const REST: usize = 6;
const IDLE: usize = 7;

/// How many seconds each of them takes.
pub(super) type Parts = [f64; PARTS.len()];

/// Of one processor no more than this is told in a second: what is read is not read all at once.
const ONE_PROCESSOR: f64 = 1.05;

/// What the host did in a second. Where it has several processors, those that idle say nothing.
fn parts(figures: &Figures) -> Option<Parts> {
    let mut parts = Parts::default();
    for (name, share) in figures {
        if let Some(name) = name.strip_prefix(PROCESSORS) {
            let part = PARTS.iter().position(|(.., names)| names.contains(&name));
            parts[part.unwrap_or(REST)] += share;
        }
    }
    let told: f64 = parts.iter().sum();
    if told > ONE_PROCESSOR {
        parts[IDLE] = 0.0;
    } else {
        parts[REST] += (1.0 - told).max(0.0);
    }
    (told > 0.0).then_some(parts)
}

/// What the host that runs the guest does for the work that `ftvm` alone does in a second, by the
/// rates of the same round: the median over the rounds. Nothing where it is not known.
pub(super) fn of_the_same_work(
    record: &Record,
    configuration: Configuration,
    workload: Workload,
) -> Option<Parts> {
    let rate = |figures: &Figures| figures.get(THROUGHPUT).copied().filter(|rate| *rate > 0.0);
    let alone = record.by_round(Configuration::Alone, workload, rate);
    let measured = record.by_round(configuration, workload, |one| rate(one).zip(parts(one)));
    let scaled = measured.into_iter().filter_map(|(round, (rate, parts))| {
        let (_, alone) = alone.iter().find(|(other, _)| *other == round)?;
        Some(parts.map(|seconds| seconds * alone / rate))
    });
    let rounds: Vec<Parts> = scaled.collect();
    let mut medians = Parts::default();
    for (part, median) in medians.iter_mut().enumerate() {
        *median = Summary::of(rounds.iter().map(|parts| parts[part]))?.median;
    }
    Some(medians)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration::{Alone, LoggedReads, Qemu};
    use crate::record::tests::{add, record};

    #[test]
    fn what_half_as_fast_takes_twice_the_time() {
        let set = Workload::RedisSet;
        let mut record = record(&[(1, Alone, set, 400.0), (1, LoggedReads, set, 200.0)]);
        let mut told =
            |at, name, share| add(&mut record, at, &format!("{PROCESSORS}{name}"), share);
        told(0, "guest", 0.5);
        told(0, "tap", 0.25);
        told(0, "host: idle", 0.125);
        told(1, "guest", 0.25);
        told(1, "log-acks", 0.125);
        told(1, "log-sender", 0.125);
        told(1, "host: idle", 14.5);
        let work = |one| of_the_same_work(&record, one, set);
        // The rest of the host is what nobody told of.
        let alone = [0.5, 0.0, 0.0, 0.25, 0.0, 0.0, 0.125, 0.125];
        assert_eq!(work(Alone), Some(alone));
        // Processors that idle beside the guest's are left out.
        let replicated = [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0];
        assert_eq!(work(LoggedReads), Some(replicated));
        assert_eq!(work(Qemu), None);
    }
}
