//! What is measured: one set of figures for each configuration, workload and round, as `report.json`
//! has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::configuration::Configuration;
use crate::machine::MachineState;
use crate::workload::Workload;

/// Figures in a second, by kind.
pub(crate) type Rates = BTreeMap<String, f64>;

/// One measurement, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From 1.
    pub round: u32,
    /// What the guest ran on.
    pub configuration: Configuration,
    /// What it did.
    pub workload: Workload,
    /// Under which conditions.
    #[serde(default, skip_serializing_if = "Condition::is_usual")]
    pub condition: Condition,
    /// What was seen.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a measurement went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Well.
    Measured {
        /// What was measured.
        figures: Box<Figures>,
    },
    /// It cannot be made on this machine.
    Gap {
        /// Why.
        reason: String,
    },
    /// It failed; the others went on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Latencies, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile, where there were enough of them.
    pub p999: Option<f64>,
}

/// Times that `ftvm` measures, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest.
    pub max: f64,
    /// How many there were.
    pub count: u64,
}

/// The log, meanwhile: on the logging channel, or in a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogFigures {
    /// Megabits in a second on average.
    pub mbit: f64,
    /// Most megabits in one second.
    pub mbit_peak: f64,
    /// Entries in a second.
    pub entries_per_second: Rates,
    /// Bytes of an entry.
    pub bytes_per_entry: Rates,
    /// Round trip between the hosts in milliseconds, as heartbeats had it under this load.
    #[serde(default)]
    pub round_trip_ms: Option<f64>,
}

/// What `ftvm` itself tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmmFigures {
    /// The log, if there was one.
    pub log: Option<LogFigures>,
    /// Exits of the guest.
    pub exits_per_second: Rates,
    /// How long outputs waited for the backup.
    pub output_hold: Option<Times>,
    /// How far the backup was behind.
    pub lag: Option<Times>,
    /// How long inputs waited for the guest.
    pub input_wait: Option<Times>,
    /// State deltas in a second.
    pub state_deltas_per_second: f64,
}

/// What a host tells of the VMM that runs in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFigures {
    /// Processor time of the VMM, in seconds in a second.
    pub cpu: f64,
    /// What the host's processors did, in seconds in a second: the guest, the parts of the VMM, and
    /// what is left of the host.
    pub profile: Rates,
    /// Frames that the guest sent and received, before they were cut for the wire.
    pub frames_per_second: Rates,
    /// Bytes of each.
    pub bytes_per_frame: Rates,
    /// Megabits in a second between the two hosts, both ways, with all headers.
    pub channel_mbit: f64,
    /// KVM's own counters (`/sys/kernel/debug/kvm`): those of all guests of the host.
    pub kvm_per_second: Rates,
    /// Why there are none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kvm_gap: Option<String>,
}

/// One set of figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// In the workload's unit.
    pub throughput: Option<f64>,
    /// Of the workload's requests.
    pub latency: Option<Latency>,
    /// What `ftvm` tells.
    pub vmm: Option<VmmFigures>,
    /// The host that runs the guest.
    pub primary: Option<HostFigures>,
    /// The host of the backup.
    pub backup: Option<HostFigures>,
    /// The machine on which hosts and clients run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineState>,
}

impl Figures {
    /// The log, if there was one.
    pub(crate) fn log(&self) -> Option<&LogFigures> {
        self.vmm.as_ref()?.log.as_ref()
    }

    /// See [`MachineState::stolen`]; 0 where it is not known.
    pub(crate) fn stolen(&self) -> f64 {
        self.machine.map_or(0.0, |machine| machine.stolen)
    }
}

impl Sample {
    /// What was to be measured, and in which round.
    pub(crate) fn subject(&self) -> (u32, Configuration, Workload, Condition) {
        (
            self.round,
            self.configuration,
            self.workload,
            self.condition,
        )
    }

    /// What was measured, if it was.
    #[must_use]
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured { figures } => Some(figures),
            Outcome::Gap { .. } | Outcome::Failed { .. } => None,
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Failed { reason } => Some(reason),
            Outcome::Measured { .. } | Outcome::Gap { .. } => None,
        }
    }
}
