//! What a measurement is made under, beside its configuration: load, memory, and the network between
//! the hosts. Growth is how figures change along one of these.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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
    /// Its name in files, what it is with its unit, and where along it is measured.
    pub(crate) fn about(self) -> (&'static str, &'static str, &'static [f64]) {
        match self {
            Self::Clients => (
                "clients",
                "clients at a time",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            ),
            Self::Memory => (
                "memory",
                "guest memory, MiB",
                &[128.0, 256.0, 512.0, 1024.0, 2048.0],
            ),
            Self::Delay => (
                "delay",
                "added to the round trip between the hosts, ms",
                &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0],
            ),
            Self::Loss => (
                "loss",
                "lost between the hosts, %",
                &[0.0, 0.1, 0.5, 1.0, 2.0, 5.0],
            ),
        }
    }

    /// The conditions along it.
    pub(crate) fn conditions(self) -> impl Iterator<Item = (f64, Condition)> {
        let condition = move |at: f64| {
            let mut condition = Condition::default();
            match self {
                Self::Clients => condition.clients = at as u32,
                Self::Memory => condition.memory_mib = Some(at as u32),
                Self::Delay => condition.delay_ms = at,
                Self::Loss => condition.loss_percent = at,
            }
            (at, condition)
        };
        self.about().2.iter().copied().map(condition)
    }
}
