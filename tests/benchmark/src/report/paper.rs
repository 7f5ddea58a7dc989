//! What the paper says of VMware FT (Scales, Nelson, Venkitachalam: The design of a practical system
//! for fault-tolerant virtual machines; Operating Systems Review 44(4), 2010), beside our figures.

use crate::configuration::Configuration;
use crate::record::Record;
use crate::sample::Metric;
use crate::workload::Workload;

/// A figure of the paper, and which of ours stands beside it.
pub(super) struct Row {
    /// What was measured there.
    pub(super) theirs: &'static str,
    /// What they found.
    pub(super) value: &'static str,
    /// What is nearest to it here.
    pub(super) workload: Workload,
    /// Which figure.
    pub(super) figure: Figure,
}

/// What of ours is to be compared.
#[derive(Clone, Copy)]
pub(super) enum Figure {
    /// Throughput replicated, in proportion to `ftvm` alone.
    Ratio,
    /// The log's megabits in a second.
    Log,
    /// The same with disk reads of the backup's own.
    LogWithDiskReads,
    /// The longest lag, in milliseconds.
    Lag,
    /// Throughput replicated, in megabits in a second.
    Network,
}

/// Tables 1 and 2 of the paper, sections 4.1 to 4.3 and 3.2.
pub(super) const ROWS: [Row; 14] = [
    Row {
        theirs: "SPECjbb2005: FT / not FT",
        value: "0.98",
        workload: Workload::Compute,
        figure: Figure::Ratio,
    },
    Row {
        theirs: "kernel compile: FT / not FT",
        value: "0.95",
        workload: Workload::Compile,
        figure: Figure::Ratio,
    },
    Row {
        theirs: "Oracle Swingbench: FT / not FT",
        value: "0.99",
        workload: Workload::Pgbench,
        figure: Figure::Ratio,
    },
    Row {
        theirs: "MS-SQL DVD Store: FT / not FT",
        value: "0.94",
        workload: Workload::RedisSet,
        figure: Figure::Ratio,
    },
    Row {
        theirs: "SPECjbb2005: log",
        value: "1.5 Mbit/s",
        workload: Workload::Compute,
        figure: Figure::Log,
    },
    Row {
        theirs: "kernel compile: log",
        value: "3.0 Mbit/s",
        workload: Workload::Compile,
        figure: Figure::Log,
    },
    Row {
        theirs: "Oracle Swingbench: log",
        value: "12 Mbit/s",
        workload: Workload::Pgbench,
        figure: Figure::Log,
    },
    Row {
        theirs: "MS-SQL DVD Store: log",
        value: "18 Mbit/s",
        workload: Workload::RedisSet,
        figure: Figure::Log,
    },
    Row {
        theirs: "Oracle Swingbench: log, backup reads the disk",
        value: "3 Mbit/s",
        workload: Workload::Pgbench,
        figure: Figure::LogWithDiskReads,
    },
    Row {
        theirs: "idle: log",
        value: "0.5 to 1.5 Mbit/s",
        workload: Workload::Idle,
        figure: Figure::Log,
    },
    Row {
        theirs: "execution lag",
        value: "below 100 ms",
        workload: Workload::RedisSet,
        figure: Figure::Lag,
    },
    Row {
        theirs: "network receive, 1 Gbit/s log: 940 Mbit/s becomes",
        value: "604 Mbit/s (0.64)",
        workload: Workload::NetworkReceive,
        figure: Figure::Network,
    },
    Row {
        theirs: "network transmit, 1 Gbit/s log: 940 Mbit/s becomes",
        value: "855 Mbit/s (0.91)",
        workload: Workload::NetworkTransmit,
        figure: Figure::Network,
    },
    Row {
        theirs: "network receive, 10 Gbit/s log: 940 Mbit/s becomes",
        value: "860 Mbit/s (0.91)",
        workload: Workload::NetworkReceive,
        figure: Figure::Network,
    },
];

impl Row {
    /// Our figure, if there is one.
    pub(super) fn ours(&self, record: &Record) -> Option<String> {
        use Configuration::{Alone, DiskReads, LoggedReads};
        let ratio = || {
            let ratio = record.ratio(LoggedReads, Alone, self.workload, Metric::Throughput)?;
            Some(format!("{:.2}", ratio.median))
        };
        let value = |configuration, metric, unit: &str| {
            let summary = record.summary(configuration, self.workload, metric)?;
            Some(format!("{} {unit}", super::figure(summary.median)))
        };
        match self.figure {
            Figure::Ratio => ratio(),
            Figure::Log => value(LoggedReads, Metric::LogMbit, "Mbit/s"),
            Figure::LogWithDiskReads => value(DiskReads, Metric::LogMbit, "Mbit/s"),
            Figure::Lag => value(LoggedReads, Metric::LagMax, "ms at most"),
            Figure::Network => {
                let replicated = value(LoggedReads, Metric::Throughput, "Mbit/s")?;
                let ratio = ratio()?;
                Some(format!("{replicated} ({ratio})"))
            }
        }
    }
}
