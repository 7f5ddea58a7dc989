//! Where the time of the same work goes, under each configuration.

use std::collections::BTreeMap;

use crate::configuration::Configuration;
use crate::host_meter::IDLE;
use crate::record::Record;
use crate::sample::Figures;
use crate::statistics::medians;
use crate::workload::Workload;

/// What the processor of the host that runs the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Guest,
    Vmm,
    Kernel,
    Devices,
    Log,
    Interrupts,
    Rest,
    Idle,
}

/// What was done in so many seconds.
pub(super) type Parts = BTreeMap<Part, f64>;

/// Of one processor no more than this is told in a second: what is read is not read all at once.
const ONE_PROCESSOR: f64 = 1.05;

impl Part {
    /// By the name that the profile has.
    fn of(name: &str) -> Self {
        match name {
            "guest" => Self::Guest,
            "vCPU thread: VMM" => Self::Vmm,
            "vCPU thread: kernel" => Self::Kernel,
            // QEMU's main thread has all its devices.
            "tap" | "disk" | "disk-link" | "qemu-system-x86" => Self::Devices,
            "log-sender" | "log-acks" | "output-gate" | "disk-log" | "heartbeat" | "peer-watch" => {
                Self::Log
            }
            "host: interrupts" => Self::Interrupts,
            IDLE => Self::Idle,
            _ => Self::Rest,
        }
    }
}

/// What the host did in a second. Where it has several processors, those that idle say nothing.
fn parts(figures: &Figures) -> Option<Parts> {
    let profile = &figures.primary.as_ref()?.profile;
    if profile.is_empty() {
        return None;
    }
    let mut parts = Parts::new();
    for (name, share) in profile {
        *parts.entry(Part::of(name)).or_default() += share;
    }
    let told: f64 = parts.values().sum();
    if told > ONE_PROCESSOR {
        parts.remove(&Part::Idle);
    } else {
        *parts.entry(Part::Rest).or_default() += (1.0 - told).max(0.0);
    }
    Some(parts)
}

/// What the host that runs the guest does for the work that `ftvm` alone does in a second, by the
/// rates of the same round: the median over the rounds. Nothing where it is not known.
pub(super) fn of_the_same_work(
    record: &Record,
    configuration: Configuration,
    workload: Workload,
) -> Parts {
    let rates = record.by_round(Configuration::Alone, workload, |one| one.throughput);
    let rates: BTreeMap<u32, f64> = rates.into_iter().collect();
    let measured = record.by_round(configuration, workload, |figures| {
        Some((
            figures.throughput.filter(|rate| *rate > 0.0)?,
            parts(figures)?,
        ))
    });
    let scaled = measured
        .into_iter()
        .filter_map(|(round, (rate, mut parts))| {
            let scale = rates.get(&round)? / rate;
            parts.values_mut().for_each(|share| *share *= scale);
            Some(parts)
        });
    medians(&scaled.collect::<Vec<Parts>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration::{Alone, LoggedReads};
    use crate::record::tests::{change, record};
    use crate::sample::{HostFigures, Rates};

    /// A configuration, its throughput, and its profile.
    type Profile<'a> = (Configuration, f64, &'a [(&'a str, f64)]);

    fn of(profiles: &[Profile<'_>]) -> Record {
        let values = profiles.iter();
        let values = values.map(|(one, rate, _)| (1, *one, Workload::RedisSet, *rate));
        let mut record = record(&values.collect::<Vec<_>>());
        for (at, (.., profile)) in profiles.iter().enumerate() {
            let profile = profile
                .iter()
                .map(|(name, share)| (name.to_string(), *share));
            change(&mut record, at, |figures| {
                figures.primary = Some(HostFigures {
                    profile: profile.collect::<Rates>(),
                    ..HostFigures::default()
                });
            });
        }
        record
    }

    #[test]
    fn what_half_as_fast_takes_twice_the_time() {
        let record = of(&[
            (
                Alone,
                400.0,
                &[("guest", 0.5), ("tap", 0.25), (IDLE, 0.125)],
            ),
            (
                LoggedReads,
                200.0,
                &[
                    ("guest", 0.25),
                    ("log-acks", 0.125),
                    ("log-sender", 0.125),
                    (IDLE, 0.5),
                ],
            ),
        ]);
        let work = |one| of_the_same_work(&record, one, Workload::RedisSet);
        let alone = work(Alone);
        // The rest of the host is what nobody told of.
        assert_eq!((alone[&Part::Devices], alone[&Part::Rest]), (0.25, 0.125));
        let replicated = work(LoggedReads);
        assert_eq!(
            (replicated[&Part::Guest], replicated[&Part::Log]),
            (0.5, 0.5)
        );
        assert_eq!(replicated.values().sum::<f64>(), 2.0);
        assert_eq!(work(Configuration::Qemu), Parts::new());
    }

    #[test]
    fn processors_that_idle_beside_the_guests_are_left_out() {
        let record = of(&[(Alone, 40.0, &[("guest", 1.0), (IDLE, 14.9)])]);
        let parts = of_the_same_work(&record, Alone, Workload::RedisSet);
        assert_eq!(parts, Parts::from([(Part::Guest, 1.0)]));
    }
}
