//! Clients that make a guest work, and what they say about it.

mod agent;
mod command;
mod database;
mod files;
mod network;
mod redis;

use std::path::Path;
use std::time::{Duration, Instant};

use testbed::{Error, Position, Result, wait_until};

use crate::sample::Latency;
use crate::workload::{GuestKind, Workload};

/// What fio's random offsets come from.
pub(crate) const FIO_SEED: u32 = 1;

/// Where the guest is, and how it is made to work.
#[derive(Debug)]
pub(crate) struct Driver<'a> {
    /// Where clients are.
    pub(crate) client: &'a Position,
    /// Where clients may write.
    pub(crate) scratch: &'a Path,
    /// How long a measurement shall take.
    pub(crate) window: Duration,
    /// Connections at a time, where the workload has requests.
    pub(crate) clients: u32,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// In the workload's unit.
    pub(crate) throughput: Option<f64>,
    /// Of its requests.
    pub(crate) latency: Option<Latency>,
    /// When what counts of it began.
    pub(crate) from: Instant,
    /// When it was over.
    pub(crate) to: Instant,
}

/// A workload that can begin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared {
    workload: Workload,
    /// What its preparation found: how many requests fill the window, or how many files there are.
    amount: u64,
}

impl Prepared {
    /// How long the workload runs before it is measured.
    pub(crate) fn warm_up(&self) -> Duration {
        match self.workload {
            Workload::NetworkReceive | Workload::NetworkTransmit => network::SLOW_START,
            _ => Duration::ZERO,
        }
    }
}

/// Throughput and latency of a workload.
type Rates = (Option<f64>, Option<Latency>);

impl Driver<'_> {
    /// Waits until the guest's services answer. `well` is asked meanwhile, and an error of it ends
    /// the wait.
    pub(crate) fn wait_for_guest(
        &self,
        kind: GuestKind,
        limit: Duration,
        mut well: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        wait_until("an answer of the guest's server", limit, || {
            well()?;
            Ok(match kind {
                GuestKind::Memory => redis::answers(self),
                GuestKind::Disk => database::answers(self),
            })
        })
    }

    /// Does what has to be done before the measurement: makes files, finds out how many requests
    /// fill the window.
    pub(crate) fn prepare(&self, workload: Workload) -> Result<Prepared> {
        let amount = match workload {
            Workload::Idle | Workload::Compute => 0,
            Workload::RedisSet
            | Workload::RedisGet
            | Workload::RedisSetPipelined
            | Workload::RedisGetPipelined => redis::requests(self, workload)?,
            Workload::NetworkReceive | Workload::NetworkTransmit => network::prepare(self)?,
            Workload::Pgbench => database::prepare(self)?,
            Workload::Compile => files::prepare_compilation(self)?,
            Workload::FioRandomRead
            | Workload::FioRandomWrite
            | Workload::FioRead
            | Workload::FioWrite => files::prepare_fio(self)?,
            Workload::Untar => files::prepare_untar(self)?,
        };
        Ok(Prepared { workload, amount })
    }

    /// Makes the guest work for about the window.
    pub(crate) fn run(&self, prepared: &Prepared) -> Result<Seen> {
        let Prepared { workload, amount } = *prepared;
        let from = Instant::now() + prepared.warm_up();
        let (throughput, latency) = match workload {
            Workload::Idle => {
                // Nobody asks the guest anything.
                std::thread::sleep(self.window);
                (None, None)
            }
            Workload::RedisSet
            | Workload::RedisGet
            | Workload::RedisSetPipelined
            | Workload::RedisGetPipelined => redis::run(self, workload, amount)?,
            Workload::NetworkReceive => network::run(self, &[])?,
            Workload::NetworkTransmit => network::run(self, &["--reverse"])?,
            Workload::Compute => files::compute(self)?,
            Workload::Pgbench => database::run(self)?,
            Workload::Compile => files::compile(self)?,
            Workload::FioRandomRead => files::fio(self, "randread", "4k")?,
            Workload::FioRandomWrite => files::fio(self, "randwrite", "4k")?,
            Workload::FioRead => files::fio(self, "read", "1M")?,
            Workload::FioWrite => files::fio(self, "write", "1M")?,
            Workload::Untar => files::untar(self, amount)?,
        };
        Ok(Seen {
            throughput,
            latency,
            from,
            to: Instant::now(),
        })
    }

    /// For a client that will never end.
    fn limit(&self) -> Duration {
        self.window * 8 + Duration::from_secs(300)
    }

    /// The window in whole seconds, as programs take it.
    fn seconds(&self) -> String {
        self.window.as_secs().max(1).to_string()
    }
}

/// The error of a report that cannot be read.
fn senseless(program: &str, text: &str) -> Error {
    Error::Command {
        command: program.to_owned(),
        stderr: format!("its report is not as expected:\n{text}"),
    }
}
