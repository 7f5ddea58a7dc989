//! What a guest does for its clients, and the clients: one connection each, for as long as a
//! scenario takes. Whatever happens to the hosts meanwhile, the connection must survive it, and
//! nothing may be lost that was acknowledged over it.
//!
//! | workload | the guest | the client |
//! | --- | --- | --- |
//! | Redis | in memory, `redis.cpio` | increments a counter |
//! | PostgreSQL | Debian on the shared disk | commits numbered rows, one a transaction |
//! | lines | in memory, `tiny.cpio`, and little else to do | has its lines counted |

mod client;
mod count;
mod load;
mod postgres;
mod psql;
mod redis;
mod resp;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use self::client::{Client, ClientRecord};
pub use self::load::{LoadRecord, LoadWatcher};
pub use self::postgres::Committed;

/// What serves in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workload {
    /// Redis, from an initramfs, without a disk.
    #[default]
    Redis,
    /// PostgreSQL, on the shared disk.
    Postgres,
}

impl Workload {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// Whether it needs a disk.
    #[must_use]
    pub fn has_disk(self) -> bool {
        self == Self::Postgres
    }

    /// How long the guest's boot may take, replicated, on an emulated host, on a busy machine.
    #[must_use]
    pub fn boot(self) -> Duration {
        match self {
            Self::Redis => Duration::from_secs(300),
            // Debian's own init, a journal to replay, and the server's own recovery.
            Self::Postgres => Duration::from_secs(900),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no such workload.
#[derive(Debug, thiserror::Error)]
#[error("there is no workload `{0}`: there are redis and postgres")]
pub struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        [Self::Redis, Self::Postgres]
            .into_iter()
            .find(|workload| workload.name() == name)
            .ok_or_else(|| UnknownWorkload(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_known_by_their_names() {
        for workload in [Workload::Redis, Workload::Postgres] {
            assert_eq!(
                workload.to_string().parse::<Workload>().ok(),
                Some(workload)
            );
        }
        let unknown = "mysql".parse::<Workload>().expect_err("there is none");
        assert!(unknown.to_string().contains("postgres"), "{unknown}");
    }
}
