//! What is measured, and in which order.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::configuration::Configuration;
use crate::figures::{Figures, THROUGHPUT};
use crate::workload::{GuestKind, Workload};

/// What grows, where growth is measured. Names on the command line and in files are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The load.
    Clients,
    /// The round trip between the hosts.
    Delay,
    /// What is lost between them.
    Loss,
}

impl Axis {
    /// What it is, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Clients => "clients at a time",
            Self::Delay => "added to the round trip between the hosts, ms",
            Self::Loss => "lost between the hosts, %",
        }
    }

    /// Where along it is measured; the first is what all other measurements are made at.
    pub(crate) fn values(self) -> &'static [f64] {
        match self {
            Self::Clients => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            Self::Delay => &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0],
            Self::Loss => &[0.0, 0.1, 0.5, 1.0, 2.0, 5.0],
        }
    }
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

/// What one measurement is of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// From 1.
    pub round: u32,
    /// What the guest runs on.
    pub configuration: Configuration,
    /// What it does.
    pub workload: Workload,
    /// Where along an axis, if it is measured for growth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<(Axis, f64)>,
}

impl Subject {
    /// Whether both are measured in the same guest.
    pub(crate) fn shares_guest_with(&self, other: &Self) -> bool {
        let guest = |one: &Self| (one.round, one.configuration, one.workload.guest());
        guest(self) == guest(other)
    }

    /// How many clients there are at a time.
    pub(crate) fn clients(&self) -> u32 {
        match self.growth {
            Some((Axis::Clients, clients)) => clients as u32,
            _ => 1,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (round, configuration, workload) = (self.round, self.configuration, self.workload);
        write!(f, "round {round}, {configuration}, {workload}")?;
        match self.growth {
            Some((axis, at)) => write!(f, ", {at} {}", axis.title()),
            None => Ok(()),
        }
    }
}

/// Everything, interleaved: each round has every configuration, one after the other, with each guest.
/// The configurations' order is rotated from round to round, so that none of them is always the
/// first, or always behind the same one. What is between the hosts matters to configurations of two
/// hosts only.
pub(crate) fn plan(options: &Options) -> Vec<Subject> {
    let mut all = Vec::new();
    for round in 1..=options.rounds {
        for guest in [GuestKind::Memory, GuestKind::Disk] {
            let mut order = options.configurations.clone();
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
                let workloads = options.workloads.iter().filter(here);
                all.extend(workloads.map(|workload| subject(*workload, None)));
                let grows = |axis: &&Axis| {
                    GROWTH.guest() == guest
                        && GROWTH_ON.contains(&configuration)
                        && (**axis == Axis::Clients || configuration.has_two_hosts())
                };
                for axis in options.growth.iter().filter(grows) {
                    let values = axis.values()[1..].iter();
                    all.extend(values.map(|at| subject(GROWTH, Some((*axis, *at)))));
                }
            }
        }
    }
    all
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    #[serde(flatten)]
    pub subject: Subject,
    /// What came of it: figures, or why it failed; the others went on then.
    pub outcome: Result<Figures, String>,
}

impl fmt::Display for Sample {
    /// In a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.subject)?;
        match &self.outcome {
            Err(reason) => write!(f, "FAILED: {reason}"),
            Ok(figures) => match figures.get(THROUGHPUT) {
                Some(rate) => write!(f, "{rate:.1} {}", self.subject.workload.unit()),
                None => f.write_str("measured"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_everything_once_in_another_order() {
        let options = Options::full(3);
        let all = plan(&options);
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
        // Five configurations each of a guest without a disk, and of one with it.
        assert_eq!(all.chunk_by(Subject::shares_guest_with).count(), 3 * 10);
        for &axis in Axis::value_variants() {
            for &at in &axis.values()[1..] {
                let grows = |configuration| times(1, configuration, GROWTH, Some((axis, at)));
                let alone = usize::from(axis == Axis::Clients);
                assert_eq!(grows(Configuration::LoggedReads), 1);
                assert_eq!(grows(Configuration::Alone), alone, "it is on one host");
            }
        }
    }
}
