//! What every client is told, and what it says at its end.

use std::path::Path;
use std::time::Duration;

use testbed::{Error, Position};

use crate::workload::Workload;

/// Where the guest is, and how it is made to work.
#[derive(Debug)]
pub(crate) struct Driver<'a> {
    /// Where clients are.
    pub(crate) client: &'a Position,
    /// Where clients may write.
    pub(crate) scratch: &'a Path,
    /// What it is to do.
    pub(crate) workload: Workload,
    /// How long a measurement shall take.
    pub(crate) window: Duration,
    /// Connections at a time, where the workload has requests.
    pub(crate) clients: u32,
}

impl Driver<'_> {
    /// For a client that will never end.
    pub(super) fn limit(&self) -> Duration {
        self.window * 8 + Duration::from_secs(300)
    }

    /// The window in whole seconds, as programs take it.
    pub(super) fn seconds(&self) -> String {
        self.window.as_secs().max(1).to_string()
    }
}

/// Of the workload's requests, in milliseconds: median and 99th percentile.
type Latency = [f64; 2];

/// Throughput in the workload's unit, and latency where there are requests.
pub(super) type Rates = (f64, Option<Latency>);

/// The error of a report that cannot be read.
pub(super) fn senseless(program: &str, text: &str) -> Error {
    Error::Command {
        command: program.to_owned(),
        stderr: format!("its report is not as expected:\n{text}"),
    }
}
