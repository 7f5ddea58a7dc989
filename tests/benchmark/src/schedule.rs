//! In which order everything is measured, and how long that will take.

use std::collections::BTreeMap;
use std::time::Duration;

use super::condition::{Axis, Condition};
use super::configuration::Configuration;
use super::workload::{GuestKind, Workload};

/// One boot of a guest, and what is measured in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit {
    /// From 1.
    pub round: u32,
    /// What the guest runs on.
    pub configuration: Configuration,
    /// Which guest.
    pub guest: GuestKind,
    /// Its memory in MiB; its image's usual, if none.
    pub memory_mib: Option<u32>,
    /// What it does, one after the other, and under which conditions.
    pub measurements: Vec<(Workload, Condition)>,
}

/// What the growth of figures is measured with: many small requests.
pub(super) const GROWTH: Workload = Workload::RedisSet;
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
#[must_use]
pub fn plan(rounds: u32, configurations: &[Configuration], workloads: &[Workload]) -> Vec<Visit> {
    let mut visits = Vec::new();
    for round in 1..=rounds {
        for guest in [GuestKind::Memory, GuestKind::Disk] {
            let mut order = configurations.to_vec();
            if !order.is_empty() {
                let by = (round - 1) as usize % order.len();
                order.rotate_left(by);
            }
            for configuration in order {
                let measured = |workload: &Workload| {
                    workload.guest() == guest && configuration.gap(*workload).is_none()
                };
                let measurements: Vec<_> = workloads
                    .iter()
                    .filter(|workload| measured(workload))
                    .map(|workload| (*workload, Condition::default()))
                    .collect();
                if !measurements.is_empty() {
                    visits.push(Visit {
                        round,
                        configuration,
                        guest,
                        memory_mib: None,
                        measurements,
                    });
                }
            }
        }
    }
    visits
}

/// The visits that show growth along some axes. What is between the hosts matters to configurations
/// of two hosts only; memory takes a boot for each value.
#[must_use]
pub fn growth(rounds: u32, configurations: &[Configuration], axes: &[Axis]) -> Vec<Visit> {
    let mut visits = Vec::new();
    let chosen = |one: &Configuration| GROWTH_ON.contains(one);
    for round in 1..=rounds {
        for axis in axes {
            for configuration in configurations.iter().copied().filter(chosen) {
                let between_hosts = matches!(axis, Axis::Delay | Axis::Loss);
                if between_hosts && !configuration.has_two_hosts() {
                    continue;
                }
                let conditions = axis.values().iter().map(|value| axis.condition(*value));
                // What is usual is measured already.
                let conditions = conditions.filter(|condition| !condition.is_usual());
                let measurements: Vec<_> =
                    conditions.map(|condition| (GROWTH, condition)).collect();
                // A boot for each amount of memory, and one for all that needs none.
                let together = measurements.chunk_by(|a, b| a.1.memory_mib == b.1.memory_mib);
                visits.extend(together.map(|measurements| Visit {
                    round,
                    configuration,
                    guest: GROWTH.guest(),
                    memory_mib: measurements[0].1.memory_mib,
                    measurements: measurements.to_vec(),
                }));
            }
        }
    }
    visits
}

/// A part of the work whose duration is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The boot of a guest.
    Boot(Configuration, GuestKind),
    /// One measurement.
    Measure(Configuration, Workload),
    /// A failover.
    Kill,
}

/// How long the work that is left will take, by how long the same took before.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    took: BTreeMap<Step, Duration>,
    /// How long a measurement shall take.
    window: Duration,
}

impl Estimate {
    /// With nothing measured yet.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            took: BTreeMap::new(),
            window,
        }
    }

    /// A step took so long.
    pub fn note(&mut self, step: Step, took: Duration) {
        self.took.insert(step, took);
    }

    /// How long so many failovers will take.
    #[must_use]
    pub fn kills(&self, kills: u32) -> Duration {
        self.of(Step::Kill) * kills
    }

    /// How long a step will take: as long as the last time, or as long as the same does elsewhere.
    fn of(&self, step: Step) -> Duration {
        if let Some(took) = self.took.get(&step) {
            return *took;
        }
        let same = |other: &Step| match (step, other) {
            (Step::Boot(_, guest), Step::Boot(_, other)) => guest == *other,
            (Step::Measure(_, workload), Step::Measure(_, other)) => workload == *other,
            _ => false,
        };
        let elsewhere = self.took.iter().filter(|(other, _)| same(other));
        let longest = elsewhere.map(|(_, took)| *took).max();
        longest.unwrap_or(match step {
            Step::Boot(_, GuestKind::Memory) => Duration::from_secs(30),
            Step::Boot(_, GuestKind::Disk) => Duration::from_secs(120),
            // The window, and what is around it.
            Step::Measure(..) => self.window + Duration::from_secs(3),
            // Mostly a boot.
            Step::Kill => Duration::from_secs(45),
        })
    }

    /// How long these visits will take; of the first one, `done` steps (its boot is the first) are
    /// over.
    #[must_use]
    pub fn left(&self, visits: &[Visit], done: usize) -> Duration {
        visits
            .iter()
            .enumerate()
            .map(|(number, visit)| {
                let steps = visit.steps();
                let skipped = if number == 0 { done } else { 0 };
                steps
                    .skip(skipped)
                    .map(|step| self.of(step))
                    .sum::<Duration>()
            })
            .sum::<Duration>()
    }
}

impl Visit {
    /// What is to be done, in its order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        let measure =
            |(workload, _): &(Workload, Condition)| Step::Measure(self.configuration, *workload);
        std::iter::once(Step::Boot(self.configuration, self.guest))
            .chain(self.measurements.iter().map(measure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_everything_once_in_another_order() {
        let visits = plan(3, &Configuration::ALL, &Workload::ALL);
        for round in 1..=3 {
            for configuration in Configuration::ALL {
                for workload in Workload::ALL {
                    let times = visits
                        .iter()
                        .filter(|visit| {
                            visit.round == round && visit.configuration == configuration
                        })
                        .flat_map(|visit| &visit.measurements)
                        .filter(|(one, condition)| *one == workload && condition.is_usual())
                        .count();
                    let expected = usize::from(configuration.gap(workload).is_none());
                    assert_eq!(times, expected, "{round} {configuration} {workload}");
                }
            }
        }
        let first = |round| visits.iter().find(|visit| visit.round == round);
        assert_ne!(
            first(1).map(|visit| visit.configuration),
            first(2).map(|visit| visit.configuration)
        );
    }

    #[test]
    fn nothing_to_do_is_no_visit() {
        assert_eq!(plan(2, &[], &Workload::ALL), []);
        let disk = [Workload::FioRead];
        assert_eq!(plan(2, &[Configuration::Colo], &disk), []);
    }

    #[test]
    fn growth_has_every_value_once_where_it_can_matter() {
        let visits = growth(1, &Configuration::ALL, &Axis::ALL);
        for axis in Axis::ALL {
            for value in axis.values().iter().filter(|value| **value > 1.0) {
                let condition = axis.condition(*value);
                let on = |configuration| {
                    let own = visits
                        .iter()
                        .filter(|visit| visit.configuration == configuration);
                    own.flat_map(|visit| &visit.measurements)
                        .filter(|(_, other)| *other == condition)
                        .count()
                };
                assert_eq!(on(Configuration::LoggedReads), 1);
                let alone = matches!(axis, Axis::Clients | Axis::Memory);
                assert_eq!(on(Configuration::Alone), usize::from(alone));
                assert_eq!(on(Configuration::DiskReads), 0);
            }
        }
        let all_have_their_memory = visits.iter().all(|visit| {
            let mut conditions = visit.measurements.iter().map(|(_, condition)| condition);
            conditions.all(|condition| condition.memory_mib == visit.memory_mib)
        });
        assert!(all_have_their_memory);
    }

    #[test]
    fn what_is_left_shrinks_and_learns() {
        let visits = plan(
            2,
            &[Configuration::Qemu, Configuration::Alone],
            &[Workload::Idle, Workload::RedisSet],
        );
        let second = Duration::from_secs(1);
        let mut estimate = Estimate::new(5 * second);
        let all = estimate.left(&visits, 0);
        assert_eq!(all, 4 * (30 + 2 * 8) * second);
        assert!(estimate.left(&visits, 1) < all);
        assert_eq!(estimate.left(&visits[1..], 0), estimate.left(&visits, 3));
        assert_eq!(estimate.left(&[], 0), Duration::ZERO);

        // Seen once, it is expected of all others until they are seen themselves.
        estimate.note(
            Step::Boot(Configuration::Qemu, GuestKind::Memory),
            10 * second,
        );
        assert_eq!(estimate.left(&visits, 0), 4 * (10 + 2 * 8) * second);
        estimate.note(
            Step::Boot(Configuration::Alone, GuestKind::Memory),
            4 * second,
        );
        assert_eq!(estimate.left(&visits, 0), (2 * 10 + 2 * 4 + 8 * 8) * second);
    }
}
