//! What is to be measured, and in which order.

use std::time::Duration;

use clap::ValueEnum as _;

use crate::colo;
use crate::configuration::Configuration;
use crate::sample::{Axis, GROWTH, Subject};
use crate::workload::{GuestKind, Workload};

/// What growth is measured under; the others would cost as much time and tell less.
const GROWTH_ON: [Configuration; 4] = [
    Configuration::Qemu,
    Configuration::Alone,
    Configuration::LoggedReads,
    Configuration::Colo,
];

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often each is measured.
    pub rounds: u32,
    /// Under what.
    pub configurations: Vec<Configuration>,
    /// What.
    pub workloads: Vec<Workload>,
    /// Along what growth is measured.
    pub growth: Vec<Axis>,
    /// How often the primary's host is killed.
    pub kills: u32,
    /// How long a measurement takes.
    pub window: Duration,
    /// How long one takes of those that compare QEMU COLO, with its checkpoints, to `ftvm`.
    pub colo_window: Duration,
}

impl Options {
    /// Everything, in so many rounds.
    #[must_use]
    pub fn full(rounds: u32) -> Self {
        Self {
            rounds,
            configurations: Configuration::value_variants().to_vec(),
            workloads: Workload::value_variants().to_vec(),
            growth: Axis::value_variants().to_vec(),
            kills: 20,
            window: Duration::from_secs(10),
            colo_window: colo::BETWEEN_CHECKPOINTS * 3,
        }
    }

    /// What can be measured in less than ten minutes on emulated hosts.
    #[must_use]
    pub fn quick() -> Self {
        let full = Self::full(1);
        let is_quick = |one: &Configuration| !one.compares_paging() && !one.transfers();
        Self {
            configurations: full
                .configurations
                .iter()
                .copied()
                .filter(is_quick)
                .collect(),
            // Those of the guest without a disk; a GET is a SET as far as a VMM is concerned.
            workloads: vec![
                Workload::Idle,
                Workload::RedisSet,
                Workload::RedisSetPipelined,
                Workload::NetworkReceive,
                Workload::NetworkTransmit,
                Workload::Compute,
            ],
            growth: Vec::new(),
            kills: 0,
            window: Duration::from_secs(5),
            colo_window: Duration::ZERO,
            ..full
        }
    }

    /// How long this takes. A guest under QEMU COLO stands still at checkpoints, and what they take
    /// on the channel counts: where the two are compared, there have to be some.
    pub(crate) fn window(&self, subject: &Subject) -> Duration {
        let is_one_at_a_time = subject.workload.asks_one_at_a_time() && subject.growth.is_none();
        match subject.configuration {
            Configuration::Colo if is_one_at_a_time => self.window.max(self.colo_window),
            _ => self.window,
        }
    }

    /// Everything, interleaved: each round has every configuration, one after the other, with each guest.
    /// The configurations' order is rotated from round to round, so that none of them is always the
    /// first, or always behind the same one. What is between the hosts matters to configurations of two
    /// hosts only.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let mut all = Vec::new();
        for round in 1..=self.rounds {
            for guest in [GuestKind::Memory, GuestKind::Disk] {
                let mut order = self.configurations.clone();
                let turn = (round - 1) as usize % order.len().max(1);
                order.rotate_left(turn);
                for configuration in order {
                    let subject = |workload, growth| Subject {
                        round,
                        configuration,
                        workload,
                        growth,
                    };
                    let here = |one: &&Workload| one.guest() == guest && configuration.has(**one);
                    let workloads = self.workloads.iter().filter(here);
                    let workloads: Vec<Workload> = workloads.copied().collect();
                    all.extend(workloads.iter().map(|one| subject(*one, None)));
                    let growing = |axis| -> Vec<Workload> {
                        let of_clients = GROWTH.guest() == guest
                            && GROWTH_ON.contains(&configuration)
                            && (axis == Axis::Clients || configuration.has_two_hosts());
                        match axis {
                            Axis::Memory if configuration.transfers() => workloads.clone(),
                            Axis::Clients | Axis::Delay | Axis::Loss if of_clients => vec![GROWTH],
                            _ => Vec::new(),
                        }
                    };
                    for &axis in &self.growth {
                        let workloads = growing(axis);
                        for &at in &axis.values()[1..] {
                            let growth = Some((axis, at));
                            all.extend(workloads.iter().map(|one| subject(*one, growth)));
                        }
                    }
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_everything_once_in_another_order() {
        let options = Options::full(3);
        let all = options.subjects();
        let times = |round, configuration, workload, growth| {
            let subject = Subject {
                round,
                configuration,
                workload,
                growth,
            };
            all.iter().filter(|one| **one == subject).count()
        };
        for &configuration in &options.configurations {
            for &workload in &options.workloads {
                let expected = usize::from(configuration.has(workload));
                let each = [1, 2, 3].map(|round| times(round, configuration, workload, None));
                assert_eq!(each, [expected; 3], "{configuration} {workload}");
            }
        }
        let first = |round| {
            all.iter()
                .find(|one| one.round == round)
                .map(|one| one.configuration)
        };
        assert_ne!(first(1), first(2));
        // Seven configurations each of a guest without a disk, and of one with it; and two of each of
        // these with both sizes of memory.
        let guests = all.chunk_by(Subject::shares_guest_with).count();
        assert_eq!(guests, 3 * (14 + 8));
        for &axis in Axis::value_variants() {
            for &at in &axis.values()[1..] {
                let grows = |configuration| times(1, configuration, GROWTH, Some((axis, at)));
                let is = |known: bool| usize::from(known);
                let memory = axis == Axis::Memory;
                assert_eq!(grows(Configuration::LoggedReads), is(!memory));
                let alone = is(axis == Axis::Clients);
                assert_eq!(grows(Configuration::Alone), alone, "it is on one host");
                for transfers in [Configuration::Joining, Configuration::Migration] {
                    assert_eq!(grows(transfers), is(memory));
                }
            }
        }
    }
}
