//! What the paper says of VMware FT (Scales, Nelson, Venkitachalam: The design of a practical system
//! for fault-tolerant virtual machines; Operating Systems Review 44(4), 2010), beside our figures.

use super::table::{Table, cell};
use crate::configuration::Configuration::{Alone, DiskReads, LoggedReads};
use crate::metric;
use crate::record::Record;
use crate::statistics::figure;
use crate::workload::Workload;

/// What of ours is to be compared.
#[derive(Clone, Copy)]
enum Ours {
    /// Throughput replicated, in proportion to `ftvm` alone.
    Ratio,
    /// The log's megabits in a second.
    Log,
    /// The same with disk reads of the backup's own.
    LogWithDiskReads,
    /// The longest lag, in milliseconds.
    Lag,
    /// Throughput replicated, in megabits in a second, and its ratio.
    Network,
}

/// Tables 1 and 2 of the paper, sections 4.1 to 4.3 and 3.2: what was measured there and what they
/// found, and what is nearest to it here.
#[rustfmt::skip]
const ROWS: [(&str, &str, Workload, Ours); 14] = [
    ("SPECjbb2005: FT / not FT", "0.98", Workload::Compute, Ours::Ratio),
    ("kernel compile: FT / not FT", "0.95", Workload::Compile, Ours::Ratio),
    ("Oracle Swingbench: FT / not FT", "0.99", Workload::Pgbench, Ours::Ratio),
    ("MS-SQL DVD Store: FT / not FT", "0.94", Workload::RedisSet, Ours::Ratio),
    ("SPECjbb2005: log", "1.5 Mbit/s", Workload::Compute, Ours::Log),
    ("kernel compile: log", "3.0 Mbit/s", Workload::Compile, Ours::Log),
    ("Oracle Swingbench: log", "12 Mbit/s", Workload::Pgbench, Ours::Log),
    ("MS-SQL DVD Store: log", "18 Mbit/s", Workload::RedisSet, Ours::Log),
    ("Oracle Swingbench: log, backup reads the disk", "3 Mbit/s", Workload::Pgbench, Ours::LogWithDiskReads),
    ("idle: log", "0.5 to 1.5 Mbit/s", Workload::Idle, Ours::Log),
    ("execution lag", "below 100 ms", Workload::RedisSet, Ours::Lag),
    ("network receive, 1 Gbit/s log: 940 Mbit/s becomes", "604 Mbit/s (0.64)", Workload::NetworkReceive, Ours::Network),
    ("network transmit, 1 Gbit/s log: 940 Mbit/s becomes", "855 Mbit/s (0.91)", Workload::NetworkTransmit, Ours::Network),
    ("network receive, 10 Gbit/s log: 940 Mbit/s becomes", "860 Mbit/s (0.91)", Workload::NetworkReceive, Ours::Network),
];

pub(super) fn table(record: &Record) -> Table {
    let mut table = Table::new(["theirs", "", "ours", ""]);
    for (what, theirs, workload, ours) in ROWS {
        let ratio = || {
            let ratio = record.ratio(LoggedReads, Alone, workload, metric::THROUGHPUT)?;
            Some(format!("{:.2}", ratio.median))
        };
        let value = |configuration, metric, unit: &str| {
            let summary = record.summary(configuration, workload, metric)?;
            Some(format!("{} {unit}", figure(summary.median)))
        };
        let ours = match ours {
            Ours::Ratio => ratio(),
            Ours::Log => value(LoggedReads, metric::LOG, "Mbit/s"),
            Ours::LogWithDiskReads => value(DiskReads, metric::LOG, "Mbit/s"),
            Ours::Lag => value(LoggedReads, metric::LAG_MAX, "ms at most"),
            Ours::Network => value(LoggedReads, metric::THROUGHPUT, "Mbit/s")
                .zip(ratio())
                .map(|(mbit, ratio)| format!("{mbit} ({ratio})")),
        };
        if ours.is_some() {
            let names = [what, theirs, workload.title()].map(str::to_owned);
            table.row(names.into_iter().chain([cell(ours)]));
        }
    }
    table
}
