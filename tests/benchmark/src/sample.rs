//! What is measured: one set of figures for each configuration, workload and round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::configuration::Configuration;
use super::machine_state::MachineState;
use super::workload::Workload;

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
    /// Entries in a second, by kind.
    pub entries_per_second: BTreeMap<String, f64>,
    /// Bytes of an entry, by kind.
    pub bytes_per_entry: BTreeMap<String, f64>,
    /// Round trip between the hosts in milliseconds, as heartbeats had it under this load.
    #[serde(default)]
    pub round_trip_ms: Option<f64>,
}

/// What `ftvm` itself tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmmFigures {
    /// The log, if there was one.
    pub log: Option<LogFigures>,
    /// Exits of the guest in a second, by what they were for.
    pub exits_per_second: BTreeMap<String, f64>,
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
pub struct HostFigures {
    /// Processor time of the VMM, in seconds in a second.
    pub cpu: f64,
    /// What the host's processors did, in seconds in a second: the guest, the parts of the VMM, and
    /// what is left of the host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profile: BTreeMap<String, f64>,
    /// Frames in a second that the guest sent and received, before they were cut for the wire.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frames_per_second: BTreeMap<String, f64>,
    /// Bytes of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes_per_frame: BTreeMap<String, f64>,
    /// Megabits in a second between the two hosts, both ways, with all headers.
    #[serde(default)]
    pub channel_mbit: f64,
    /// KVM's own counters (`/sys/kernel/debug/kvm`), in a second: those of all guests of the host.
    pub kvm_per_second: BTreeMap<String, f64>,
    /// Why there are none of these.
    #[serde(skip_serializing_if = "Option::is_none", default)]
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

/// One of the figures, as tables and comparisons have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// [`Figures::throughput`].
    Throughput,
    /// Median latency.
    LatencyP50,
    /// 99th percentile.
    LatencyP99,
    /// 99.9th percentile.
    LatencyP999,
    /// [`HostFigures::channel_mbit`], where there are two hosts.
    ChannelMbit,
    /// [`LogFigures::mbit`].
    LogMbit,
    /// [`LogFigures::mbit_peak`].
    LogPeak,
    /// Entries of all kinds, in a second.
    Entries,
    /// Bytes between the hosts for each operation of the workload.
    ChannelBytesPerOperation,
    /// Bytes of the log for each operation of the workload.
    LogBytesPerOperation,
    /// [`LogFigures::round_trip_ms`].
    RoundTrip,
    /// Median of the time that outputs were held.
    HoldP50,
    /// 99th percentile.
    HoldP99,
    /// Median of the backup's lag.
    LagP50,
    /// 99th percentile.
    LagP99,
    /// Longest.
    LagMax,
    /// Exits that KVM counted, in a second.
    Exits,
    /// The same for each operation of the workload.
    ExitsPerOperation,
    /// Processor time of the VMM that runs the guest.
    PrimaryCpu,
    /// Processor time of the backup's.
    BackupCpu,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Throughput,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::ChannelMbit,
        Self::LogMbit,
        Self::LogPeak,
        Self::Entries,
        Self::ChannelBytesPerOperation,
        Self::LogBytesPerOperation,
        Self::RoundTrip,
        Self::HoldP50,
        Self::HoldP99,
        Self::LagP50,
        Self::LagP99,
        Self::LagMax,
        Self::Exits,
        Self::ExitsPerOperation,
        Self::PrimaryCpu,
        Self::BackupCpu,
    ];

    /// Its name in tables, with its unit where the workload does not give that.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::LatencyP50 => "latency p50, ms",
            Self::LatencyP99 => "latency p99, ms",
            Self::LatencyP999 => "latency p99.9, ms",
            Self::ChannelMbit => "channel, Mbit/s",
            Self::LogMbit => "log, Mbit/s",
            Self::LogPeak => "log peak, Mbit/s",
            Self::Entries => "entries/s",
            Self::ChannelBytesPerOperation => "channel bytes per operation",
            Self::LogBytesPerOperation => "log bytes per operation",
            Self::RoundTrip => "round trip, ms",
            Self::HoldP50 => "output hold p50, ms",
            Self::HoldP99 => "output hold p99, ms",
            Self::LagP50 => "lag p50, ms",
            Self::LagP99 => "lag p99, ms",
            Self::LagMax => "lag max, ms",
            Self::Exits => "exits/s",
            Self::ExitsPerOperation => "exits per operation",
            Self::PrimaryCpu => "VMM's CPU",
            Self::BackupCpu => "backup's CPU",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        self == Self::Throughput
    }

    /// Its value in a set of figures, if it has one.
    #[must_use]
    pub fn of(self, workload: Workload, figures: &Figures) -> Option<f64> {
        let vmm = figures.vmm.as_ref();
        let log = vmm.and_then(|vmm| vmm.log.as_ref());
        let hold = vmm.and_then(|vmm| vmm.output_hold);
        let lag = vmm.and_then(|vmm| vmm.lag);
        let two = figures
            .primary
            .as_ref()
            .filter(|_| figures.backup.is_some());
        let channel = two.map(|host| host.channel_mbit);
        let operations = || {
            let throughput = figures.throughput.filter(|rate| *rate > 0.0);
            throughput.filter(|_| workload.counts_operations())
        };
        match self {
            Self::Throughput => figures.throughput,
            Self::LatencyP50 => figures.latency.map(|latency| latency.p50),
            Self::LatencyP99 => figures.latency.map(|latency| latency.p99),
            Self::LatencyP999 => figures.latency.and_then(|latency| latency.p999),
            Self::ChannelMbit => channel,
            Self::ChannelBytesPerOperation => {
                let bytes = channel.map(|mbit| mbit * 1e6 / 8.0);
                bytes.zip(operations()).map(|(bytes, rate)| bytes / rate)
            }
            Self::LogMbit => log.map(|log| log.mbit),
            Self::LogPeak => log.map(|log| log.mbit_peak),
            Self::Entries => log.map(|log| log.entries_per_second.values().sum()),
            Self::LogBytesPerOperation => {
                let bytes = log.map(|log| log.mbit * 1e6 / 8.0);
                bytes.zip(operations()).map(|(bytes, rate)| bytes / rate)
            }
            Self::RoundTrip => log.and_then(|log| log.round_trip_ms),
            Self::HoldP50 => hold.map(|hold| hold.p50),
            Self::HoldP99 => hold.map(|hold| hold.p99),
            Self::LagP50 => lag.map(|lag| lag.p50),
            Self::LagP99 => lag.map(|lag| lag.p99),
            Self::LagMax => lag.map(|lag| lag.max),
            Self::Exits => figures.exits_per_second(),
            Self::ExitsPerOperation => {
                let exits = figures.exits_per_second();
                exits.zip(operations()).map(|(exits, rate)| exits / rate)
            }
            Self::PrimaryCpu => figures.primary.as_ref().map(|host| host.cpu),
            Self::BackupCpu => figures.backup.as_ref().map(|host| host.cpu),
        }
    }
}

impl Figures {
    /// See [`MachineState::stolen`]; 0 where it is not known.
    #[must_use]
    pub fn stolen(&self) -> f64 {
        self.machine.map_or(0.0, |machine| machine.stolen)
    }

    /// See [`MachineState::is_spoiled`].
    #[must_use]
    pub fn is_spoiled(&self) -> bool {
        self.machine.is_some_and(|machine| machine.is_spoiled())
    }

    /// Exits of the guest in a second: as KVM counts them, which is the same for every VMM; where
    /// that cannot be read, as `ftvm` does.
    #[must_use]
    pub fn exits_per_second(&self) -> Option<f64> {
        let kvm = self.primary.as_ref();
        let kvm = kvm.and_then(|host| host.kvm_per_second.get("exits").copied());
        kvm.or_else(|| Some(self.vmm.as_ref()?.exits_per_second.values().sum()))
    }
}

impl Sample {
    /// What was to be measured, and in which round.
    pub(super) fn subject(&self) -> (u32, Configuration, Workload, Condition) {
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

    /// The value of a metric, if it has one.
    #[must_use]
    pub fn value(&self, metric: Metric) -> Option<f64> {
        metric.of(self.workload, self.figures()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_for_each_operation_are_of_operations_only() {
        let mut figures = Figures {
            throughput: Some(100.0),
            primary: Some(HostFigures {
                cpu: 0.5,
                channel_mbit: 3.0,
                kvm_per_second: BTreeMap::from([("exits".to_owned(), 510.0)]),
                ..HostFigures::default()
            }),
            vmm: Some(VmmFigures {
                log: Some(LogFigures {
                    mbit: 0.8,
                    ..LogFigures::default()
                }),
                exits_per_second: BTreeMap::from([("halt".to_owned(), 7.0)]),
                ..VmmFigures::default()
            }),
            ..Figures::default()
        };
        let of = |metric: Metric, workload, figures: &Figures| metric.of(workload, figures);
        let set = Workload::RedisSet;
        assert_eq!(of(Metric::ExitsPerOperation, set, &figures), Some(5.1));
        let bytes = of(Metric::LogBytesPerOperation, set, &figures);
        assert_eq!(bytes, Some(1000.0));
        let network = Workload::NetworkReceive;
        assert_eq!(of(Metric::ExitsPerOperation, network, &figures), None);
        assert_eq!(of(Metric::HoldP99, set, &figures), None);

        // Without KVM's counters, ftvm's own.
        figures.primary = None;
        assert_eq!(of(Metric::Exits, set, &figures), Some(7.0));
        figures.throughput = Some(0.0);
        assert_eq!(of(Metric::ExitsPerOperation, set, &figures), None);
    }

    #[test]
    fn samples_are_read_back() {
        let failed = Sample {
            round: 2,
            configuration: Configuration::Colo,
            workload: Workload::Idle,
            condition: Condition::default(),
            outcome: Outcome::Failed {
                reason: "no".to_owned(),
            },
        };
        let measured = Sample {
            condition: Condition {
                clients: 8,
                ..Condition::default()
            },
            outcome: Outcome::Measured {
                figures: Box::new(Figures {
                    seconds: 1.5,
                    latency: Some(Latency::default()),
                    ..Figures::default()
                }),
            },
            ..failed.clone()
        };
        for sample in [failed, measured] {
            let json = serde_json::to_string(&sample).expect("plain data");
            assert_eq!(
                serde_json::from_str::<Sample>(&json).expect("the same"),
                sample
            );
        }
    }
}
