//! In which order everything is measured.

use crate::condition::{Axis, Condition};
use crate::configuration::Configuration;
use crate::workload::{GuestKind, Workload};

/// One boot of a guest, and what is measured in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    /// From 1.
    pub(crate) round: u32,
    pub(crate) configuration: Configuration,
    pub(crate) guest: GuestKind,
    /// The guest's memory in MiB; its image's usual, if none.
    pub(crate) memory_mib: Option<u32>,
    /// What it does, one after the other, and under which conditions.
    pub(crate) measurements: Vec<(Workload, Condition)>,
}

/// What the growth of figures is measured with: many small requests.
pub(crate) const GROWTH: Workload = Workload::RedisSet;
/// Under what; the others would cost as much time and tell less.
const GROWTH_ON: [Configuration; 4] = [
    Configuration::Qemu,
    Configuration::Alone,
    Configuration::LoggedReads,
    Configuration::Colo,
];

/// All visits, interleaved: each round has every configuration, one after the other, with each
/// guest. The configurations' order is rotated from round to round, so that none of them is always
/// the first, or always behind the same one.
pub(crate) fn plan(
    rounds: u32,
    configurations: &[Configuration],
    workloads: &[Workload],
) -> Vec<Visit> {
    let mut visits = Vec::new();
    for round in 1..=rounds {
        for guest in [GuestKind::Memory, GuestKind::Disk] {
            let mut order = configurations.to_vec();
            order.rotate_left((round - 1) as usize % configurations.len().max(1));
            visits.extend(order.into_iter().map(|configuration| {
                Visit {
                    round,
                    configuration,
                    guest,
                    memory_mib: None,
                    measurements: workloads
                        .iter()
                        .filter(|one| one.guest() == guest && configuration.gap(**one).is_none())
                        .map(|workload| (*workload, Condition::default()))
                        .collect(),
                }
            }));
        }
    }
    visits.retain(|visit| !visit.measurements.is_empty());
    visits
}

/// The visits that show growth along some axes. What is between the hosts matters to configurations
/// of two hosts only; memory takes a boot for each value.
pub(crate) fn growth(rounds: u32, configurations: &[Configuration], axes: &[Axis]) -> Vec<Visit> {
    let mut visits = Vec::new();
    let chosen = |one: &&Configuration| GROWTH_ON.contains(*one);
    for round in 1..=rounds {
        for axis in axes {
            let between_hosts = matches!(axis, Axis::Delay | Axis::Loss);
            for configuration in configurations.iter().filter(chosen) {
                if between_hosts && !configuration.has_two_hosts() {
                    continue;
                }
                // What is usual is measured already.
                let conditions = axis.conditions().map(|(_, condition)| condition);
                let measurements: Vec<_> = conditions
                    .filter(|condition| !condition.is_usual())
                    .map(|condition| (GROWTH, condition))
                    .collect();
                let together = measurements.chunk_by(|a, b| a.1.memory_mib == b.1.memory_mib);
                visits.extend(together.map(|measurements| Visit {
                    round,
                    configuration: *configuration,
                    guest: GROWTH.guest(),
                    memory_mib: measurements[0].1.memory_mib,
                    measurements: measurements.to_vec(),
                }));
            }
        }
    }
    visits
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_round_has_everything_once_in_another_order() {
        let (all, workloads) = (Configuration::value_variants(), Workload::value_variants());
        let visits = plan(3, all, workloads);
        for round in 1..=3 {
            for configuration in all {
                for workload in workloads {
                    let own = visits.iter().filter(|visit| {
                        visit.round == round && visit.configuration == *configuration
                    });
                    let measured = own.flat_map(|visit| &visit.measurements);
                    let times = measured.filter(|(one, _)| one == workload).count();
                    let expected = usize::from(configuration.gap(*workload).is_none());
                    assert_eq!(times, expected, "{round} {configuration} {workload}");
                }
            }
        }
        let first = |round| visits.iter().find(|visit| visit.round == round);
        assert_ne!(
            first(1).map(|visit| visit.configuration),
            first(2).map(|visit| visit.configuration)
        );
        assert_eq!(plan(2, &[], workloads), []);
        assert_eq!(plan(2, &[Configuration::Colo], &[Workload::FioRead]), []);
    }

    #[test]
    fn growth_has_every_value_once_where_it_can_matter() {
        let axes = Axis::value_variants();
        let visits = growth(1, Configuration::value_variants(), axes);
        for axis in axes {
            for (_, condition) in axis.conditions().filter(|(_, one)| !one.is_usual()) {
                let on = |configuration| {
                    let own = visits
                        .iter()
                        .filter(|one| one.configuration == configuration);
                    let all = own.flat_map(|visit| &visit.measurements);
                    all.filter(|(_, other)| *other == condition).count()
                };
                assert_eq!(on(Configuration::LoggedReads), 1);
                let alone = matches!(axis, Axis::Clients | Axis::Memory);
                assert_eq!(on(Configuration::Alone), usize::from(alone));
                assert_eq!(on(Configuration::DiskReads), 0);
            }
        }
    }
}
