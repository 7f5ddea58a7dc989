//! What the guest does while it is measured.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::configuration::{UnknownName, named};

/// Which guest a workload runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKind {
    /// Redis and tools in an initramfs (`load.cpio`).
    Memory,
    /// Debian from its disk image (`debian.raw`).
    Disk,
}

/// What the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Nothing: Redis waits.
    Idle,
    /// `redis-benchmark`, SET, one client, one request after the other.
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
    /// `pgbench`, its TPC-B-like transactions, one client.
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
}

impl Workload {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 15] = [
        Self::Idle,
        Self::RedisSet,
        Self::RedisGet,
        Self::RedisSetPipelined,
        Self::RedisGetPipelined,
        Self::NetworkReceive,
        Self::NetworkTransmit,
        Self::Compute,
        Self::Pgbench,
        Self::Compile,
        Self::FioRandomRead,
        Self::FioRandomWrite,
        Self::FioRead,
        Self::FioWrite,
        Self::Untar,
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::RedisSet => "redis-set",
            Self::RedisGet => "redis-get",
            Self::RedisSetPipelined => "redis-set-pipelined",
            Self::RedisGetPipelined => "redis-get-pipelined",
            Self::NetworkReceive => "network-receive",
            Self::NetworkTransmit => "network-transmit",
            Self::Compute => "compute",
            Self::Pgbench => "pgbench",
            Self::Compile => "compile",
            Self::FioRandomRead => "fio-random-read",
            Self::FioRandomWrite => "fio-random-write",
            Self::FioRead => "fio-read",
            Self::FioWrite => "fio-write",
            Self::Untar => "untar",
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::RedisSet => "Redis SET",
            Self::RedisGet => "Redis GET",
            Self::RedisSetPipelined => "Redis SET, 16 pipelined",
            Self::RedisGetPipelined => "Redis GET, 16 pipelined",
            Self::NetworkReceive => "network receive (iperf3)",
            Self::NetworkTransmit => "network transmit (iperf3)",
            Self::Compute => "compute (openssl speed sha256)",
            Self::Pgbench => "PostgreSQL (pgbench)",
            Self::Compile => "compile (gcc)",
            Self::FioRandomRead => "fio random read, 4 KiB",
            Self::FioRandomWrite => "fio random write, 4 KiB",
            Self::FioRead => "fio read, 1 MiB",
            Self::FioWrite => "fio write, 1 MiB",
            Self::Untar => "untar",
        }
    }

    /// What its throughput counts, in one second; nothing when it is idle.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Idle => "",
            Self::RedisSet | Self::RedisGet | Self::RedisSetPipelined | Self::RedisGetPipelined => {
                "requests/s"
            }
            Self::NetworkReceive | Self::NetworkTransmit => "Mbit/s",
            Self::Compute | Self::FioRead | Self::FioWrite => "MB/s",
            Self::Pgbench => "transactions/s",
            Self::Compile => "compilations/min",
            Self::FioRandomRead | Self::FioRandomWrite => "requests/s",
            Self::Untar => "files/s",
        }
    }

    /// Whether its throughput is a count of operations, so that exits, time and bytes for each of
    /// them mean something.
    #[must_use]
    pub fn counts_operations(self) -> bool {
        matches!(self.unit(), "requests/s" | "transactions/s")
    }

    /// Whether each of its clients has one request to Redis on the way: exits a request have a target,
    /// and QEMU COLO is what `ftvm` is compared to.
    #[must_use]
    pub fn asks_one_at_a_time(self) -> bool {
        matches!(self, Self::RedisSet | Self::RedisGet)
    }

    /// How often its client waits for a reply in one operation (pipelined requests: in one batch of
    /// them); nothing where no client waits.
    #[must_use]
    pub fn exchanges(self) -> Option<u32> {
        match self {
            Self::RedisSet | Self::RedisGet | Self::RedisSetPipelined | Self::RedisGetPipelined => {
                Some(1)
            }
            // BEGIN, UPDATE, SELECT, UPDATE, UPDATE, INSERT, END, each a query of its own.
            Self::Pgbench => Some(7),
            _ => None,
        }
    }

    /// The guest that it runs in.
    #[must_use]
    pub fn guest(self) -> GuestKind {
        match self {
            Self::Idle
            | Self::RedisSet
            | Self::RedisGet
            | Self::RedisSetPipelined
            | Self::RedisGetPipelined
            | Self::NetworkReceive
            | Self::NetworkTransmit
            | Self::Compute => GuestKind::Memory,
            Self::Pgbench
            | Self::Compile
            | Self::FioRandomRead
            | Self::FioRandomWrite
            | Self::FioRead
            | Self::FioWrite
            | Self::Untar => GuestKind::Disk,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

impl FromStr for Workload {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("workload", name, Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_are_those_in_files() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
            let json = serde_json::to_string(&workload).expect("plain data");
            assert_eq!(json, format!("\"{}\"", workload.name()));
        }
        assert!("tetris".parse::<Workload>().is_err());
    }
}
