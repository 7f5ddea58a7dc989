//! What the guest does while it is measured.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which guest a workload runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestKind {
    /// Redis and tools in an initramfs (`load.cpio`).
    Memory,
    /// Debian from its disk image (`debian.raw`).
    Disk,
}

/// What the guest does, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Its boot, until Redis answers.
    Boot,
    /// Nothing: Redis waits.
    Idle,
    /// `redis-benchmark`, SET, one request after the other.
    RedisSet,
    /// The same with GET.
    RedisGet,
    /// SET, sixteen requests on the way at a time.
    RedisSetPipelined,
    /// The same with GET.
    RedisGetPipelined,
    /// `iperf3`, TCP to the guest.
    NetworkReceive,
    /// `iperf3`, TCP from the guest.
    NetworkTransmit,
    /// `openssl speed`, SHA-256.
    Compute,
    /// Debian's boot, until PostgreSQL answers.
    BootDebian,
    /// `pgbench`, its TPC-B-like transactions.
    Pgbench,
    /// `gcc` compiles a C program.
    Compile,
    /// fio, random reads of 4 KiB past the guest's cache.
    FioRandomRead,
    /// The same with writes.
    FioRandomWrite,
    /// fio, sequential reads of 1 MiB.
    FioRead,
    /// The same with writes.
    FioWrite,
    /// `tar` unpacks an archive of small files.
    Untar,
    /// A shell starts one small program after the other.
    Fork,
}

impl Workload {
    /// What it is in words, and what its throughput counts in a second; nothing when it is idle.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Boot => ("boot, to Redis", "boots/min"),
            Self::Idle => ("idle", ""),
            Self::RedisSet => ("Redis SET", "requests/s"),
            Self::RedisGet => ("Redis GET", "requests/s"),
            Self::RedisSetPipelined => ("Redis SET, 16 pipelined", "requests/s"),
            Self::RedisGetPipelined => ("Redis GET, 16 pipelined", "requests/s"),
            Self::NetworkReceive => ("network receive (iperf3)", "Mbit/s"),
            Self::NetworkTransmit => ("network transmit (iperf3)", "Mbit/s"),
            Self::Compute => ("compute (openssl speed sha256)", "MB/s"),
            Self::BootDebian => ("boot of Debian, to PostgreSQL", "boots/min"),
            Self::Pgbench => ("PostgreSQL (pgbench)", "transactions/s"),
            Self::Compile => ("compile (gcc)", "compilations/min"),
            Self::FioRandomRead => ("fio random read, 4 KiB", "requests/s"),
            Self::FioRandomWrite => ("fio random write, 4 KiB", "requests/s"),
            Self::FioRead => ("fio read, 1 MiB", "MB/s"),
            Self::FioWrite => ("fio write, 1 MiB", "MB/s"),
            Self::Untar => ("untar", "files/s"),
            Self::Fork => ("fork and exec", "programs/s"),
        }
    }

    /// What it is, in words.
    pub(crate) fn title(self) -> &'static str {
        self.words().0
    }

    /// What its throughput counts.
    pub(crate) fn unit(self) -> &'static str {
        self.words().1
    }

    /// Whether its throughput is a count of operations, so that exits and bytes for each of them
    /// mean something.
    pub(crate) fn counts_operations(self) -> bool {
        matches!(self.unit(), "requests/s" | "transactions/s")
    }

    /// Whether each of its clients has one request to Redis on the way: exits a request have a goal,
    /// and QEMU COLO is what `ftvm` is compared to.
    pub(crate) fn asks_one_at_a_time(self) -> bool {
        matches!(self, Self::RedisSet | Self::RedisGet)
    }

    /// Whether a program in the guest measures it, by the guest's clock. No client does: for all others, this
    /// machine's clock is asked.
    pub(crate) fn is_timed_by_guest(self) -> bool {
        use Workload::{Compute, FioRandomRead, FioRandomWrite, FioRead, FioWrite};
        matches!(
            self,
            Compute | FioRandomRead | FioRandomWrite | FioRead | FioWrite
        )
    }

    /// How often its client waits for a reply in one operation (pipelined requests: in one batch of
    /// them); nothing where no client waits.
    pub(crate) fn exchanges(self) -> Option<u32> {
        match self {
            // BEGIN, UPDATE, SELECT, UPDATE, UPDATE, INSERT, END, each a query of its own.
            Self::Pgbench => Some(7),
            one if one.title().starts_with("Redis") => Some(1),
            _ => None,
        }
    }

    /// Whether it can go on while the guest's state is on its way to another host: nothing, a client
    /// that waits for each reply, and a program that writes to much memory.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Idle | Self::RedisSet | Self::Compile)
    }

    /// Whether it is what comes before everything else in a guest.
    pub(crate) fn is_boot(self) -> bool {
        matches!(self, Self::Boot | Self::BootDebian)
    }

    /// The guest that it runs in.
    #[must_use]
    pub fn guest(self) -> GuestKind {
        // Those of the guest without a disk come first.
        match self < Self::BootDebian {
            true => GuestKind::Memory,
            false => GuestKind::Disk,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}
