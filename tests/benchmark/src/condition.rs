//! What a measurement is made under, beside its configuration: load, memory, and the network between
//! the hosts. Growth is how figures change along one of these.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::configuration::{UnknownName, named};

/// Under which conditions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Clients at a time.
    pub clients: u32,
    /// The guest's memory in MiB; its image's usual, if none.
    pub memory_mib: Option<u32>,
    /// What is added to the round trip between the hosts, in milliseconds.
    pub delay_ms: f64,
    /// Part of the packets between the hosts that is lost, in hundredths.
    pub loss_percent: f64,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            clients: 1,
            memory_mib: None,
            delay_ms: 0.0,
            loss_percent: 0.0,
        }
    }
}

impl Condition {
    /// Whether this is what all workloads are measured under.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The load.
    Clients,
    /// The guest's memory.
    Memory,
    /// The round trip between the hosts.
    Delay,
    /// What is lost between them.
    Loss,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Clients, Self::Memory, Self::Delay, Self::Loss];

    /// Its name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Memory => "memory",
            Self::Delay => "delay",
            Self::Loss => "loss",
        }
    }

    /// What it is, with its unit.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Clients => "clients at a time",
            Self::Memory => "guest memory, MiB",
            Self::Delay => "added to the round trip between the hosts, ms",
            Self::Loss => "lost between the hosts, %",
        }
    }

    /// Where along it is measured.
    #[must_use]
    pub fn values(self) -> &'static [f64] {
        match self {
            Self::Clients => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            Self::Memory => &[128.0, 256.0, 512.0, 1024.0, 2048.0],
            Self::Delay => &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0],
            Self::Loss => &[0.0, 0.1, 0.5, 1.0, 2.0, 5.0],
        }
    }

    /// The condition at a value.
    #[must_use]
    pub fn condition(self, value: f64) -> Condition {
        let usual = Condition::default();
        match self {
            Self::Clients => Condition {
                clients: value as u32,
                ..usual
            },
            Self::Memory => Condition {
                memory_mib: Some(value as u32),
                ..usual
            },
            Self::Delay => Condition {
                delay_ms: value,
                ..usual
            },
            Self::Loss => Condition {
                loss_percent: value,
                ..usual
            },
        }
    }

    /// Where along it a condition is; none if it differs from the usual one in something else.
    #[must_use]
    pub fn value(self, condition: &Condition) -> Option<f64> {
        let value = match self {
            Self::Clients => f64::from(condition.clients),
            Self::Memory => f64::from(condition.memory_mib?),
            Self::Delay => condition.delay_ms,
            Self::Loss => condition.loss_percent,
        };
        (self.condition(value) == *condition).then_some(value)
    }
}

impl FromStr for Axis {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("axis", name, Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_where_it_was_made_and_on_no_other_axis() {
        for axis in Axis::ALL {
            for value in axis.values() {
                let condition = axis.condition(*value);
                assert_eq!(axis.value(&condition), Some(*value));
                for other in Axis::ALL.into_iter().filter(|other| *other != axis) {
                    let on_it = other.value(&condition).is_some();
                    assert!(!on_it || condition.is_usual(), "{axis:?} {value} {other:?}");
                }
            }
        }
    }
}
