//! One measurement: what it is of, and what came of it.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::configuration::Configuration;
use crate::figures::{Figures, PAUSE, THROUGHPUT, TIME};
use crate::workload::Workload;

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
    /// The guest's memory, which has to get to the other host.
    Memory,
}

impl Axis {
    /// What it is, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Clients => "clients at a time",
            Self::Delay => "added to the round trip between the hosts, ms",
            Self::Loss => "lost between the hosts, %",
            Self::Memory => "MiB of memory",
        }
    }

    /// Where along it is measured; the first is what all other measurements are made at.
    pub(crate) fn values(self) -> &'static [f64] {
        match self {
            Self::Clients => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            Self::Delay => &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0],
            Self::Loss => &[0.0, 0.1, 0.5, 1.0, 2.0, 5.0],
            Self::Memory => &[256.0, 1024.0],
        }
    }
}

/// What the growth of figures is measured with: many small requests.
pub(crate) const GROWTH: Workload = Workload::RedisSet;

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
        let guest = |one: &Self| {
            let kind = one.workload.guest();
            (one.round, one.configuration, kind, one.memory_mib())
        };
        guest(self) == guest(other)
    }

    /// Memory of the guest, if it is not what a guest of its kind has.
    pub(crate) fn memory_mib(&self) -> Option<u32> {
        match self.growth {
            Some((Axis::Memory, mib)) => Some(mib as u32),
            _ => None,
        }
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
            Ok(figures) => {
                let value = |name| figures.get(name).copied();
                match (value(THROUGHPUT), value(PAUSE).zip(value(TIME))) {
                    (Some(rate), _) => write!(f, "{rate:.1} {}", self.subject.workload.unit()),
                    (None, Some((pause, time))) => write!(f, "{time:.1} s, pause {pause:.0} ms"),
                    (None, None) => f.write_str("measured"),
                }
            }
        }
    }
}
