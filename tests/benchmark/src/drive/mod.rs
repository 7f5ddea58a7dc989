//! Clients that make a guest work, and what they say about it.

mod agent;
mod command;
mod database;
mod driver;
mod files;
mod network;
mod ongoing;
mod redis;

use std::time::{Duration, Instant};

use testbed::{Result, wait_until};

pub(crate) use self::driver::Driver;
pub(crate) use self::files::FIO_SEED;
pub(crate) use self::ongoing::{Load, longest_wait, rate};
use crate::figures::{Figures, LATENCY_P50, LATENCY_P99, THROUGHPUT};
use crate::workload::{GuestKind, Workload};

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// Throughput and latency.
    pub(crate) figures: Figures,
    /// When what counts of it began.
    pub(crate) from: Instant,
    /// When it was over.
    pub(crate) to: Instant,
}

impl Driver<'_> {
    /// Waits until the guest's services answer. `well` is asked meanwhile, and an error of it ends
    /// the wait.
    pub(crate) fn wait_for_guest(
        &self,
        limit: Duration,
        mut well: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        wait_until("an answer of the guest's server", limit, || {
            well()?;
            Ok(match self.workload.guest() {
                GuestKind::Memory => redis::answers(self),
                GuestKind::Disk => database::answers(self),
            })
        })
    }

    /// How long the workload runs before it is measured.
    pub(crate) fn warm_up(&self) -> Duration {
        match self.workload {
            Workload::NetworkReceive | Workload::NetworkTransmit => network::SLOW_START,
            _ => Duration::ZERO,
        }
    }

    /// Does what has to be done before the measurement: makes files, finds out how much there is to
    /// do (how many requests fill the window, how many files there are).
    pub(crate) fn prepare(&self) -> Result<u64> {
        match self.workload {
            Workload::Boot
            | Workload::BootDebian
            | Workload::Idle
            | Workload::Compute
            | Workload::Fork => Ok(0),
            Workload::RedisSet | Workload::RedisGet => redis::requests(self, 1),
            Workload::RedisSetPipelined | Workload::RedisGetPipelined => {
                redis::requests(self, redis::PIPELINE)
            }
            Workload::NetworkReceive | Workload::NetworkTransmit => network::prepare(self),
            Workload::Pgbench => database::prepare(self),
            Workload::Compile => files::prepare_compilation(self, files::FUNCTIONS),
            Workload::FioRandomRead
            | Workload::FioRandomWrite
            | Workload::FioRead
            | Workload::FioWrite => files::prepare_fio(self),
            Workload::Untar => files::prepare_untar(self),
        }
    }

    /// Makes the guest work for about the window.
    pub(crate) fn run(&self, amount: u64) -> Result<Seen> {
        let from = Instant::now() + self.warm_up();
        let rates = match self.workload {
            Workload::Boot | Workload::BootDebian => unreachable!("that is over"),
            Workload::Idle => {
                // Nobody asks the guest anything.
                std::thread::sleep(self.window);
                None
            }
            Workload::RedisSet => Some(redis::run(self, "set", 1, amount)?),
            Workload::RedisGet => Some(redis::run(self, "get", 1, amount)?),
            Workload::RedisSetPipelined => Some(redis::run(self, "set", redis::PIPELINE, amount)?),
            Workload::RedisGetPipelined => Some(redis::run(self, "get", redis::PIPELINE, amount)?),
            Workload::NetworkReceive => Some(network::run(self, &[])?),
            Workload::NetworkTransmit => Some(network::run(self, &["--reverse"])?),
            Workload::Compute => Some(files::compute(self)?),
            Workload::Pgbench => Some(database::run(self)?),
            Workload::Compile => Some(files::compile(self)?),
            Workload::FioRandomRead => Some(files::fio(self, "randread", "4k")?),
            Workload::FioRandomWrite => Some(files::fio(self, "randwrite", "4k")?),
            Workload::FioRead => Some(files::fio(self, "read", "1M")?),
            Workload::FioWrite => Some(files::fio(self, "write", "1M")?),
            Workload::Untar => Some(files::untar(self, amount)?),
            Workload::Fork => Some(files::fork(self)?),
        };
        let to = Instant::now();
        let mut figures = Figures::new();
        if let Some((throughput, latency)) = rates {
            figures.insert(THROUGHPUT.to_owned(), throughput);
            let names = [LATENCY_P50, LATENCY_P99].map(str::to_owned).into_iter();
            figures.extend(names.zip(latency.into_iter().flatten()));
        }
        Ok(Seen { figures, from, to })
    }
}
