//! Failovers: a guest is replicated from one host to another, a client has its
//! requests answered over one connection (increments of a counter in Redis, or
//! commits in PostgreSQL on the shared disk), the primary's host is killed or
//! frozen, and the client's figures tell what was lost.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::failover::{Failovers, Options, Judgement};
//!
//! let mut failovers = Failovers::start("example", Options::default())?;
//! let run = failovers.run(&mut |_| {})?;
//! assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
//! failovers.end(true)?;
//! # Ok(())
//! # }
//! ```

mod disk;
mod judge;
mod kill_plan;
mod progress;
mod report;
mod run;
mod scene;

use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use guest_images::load::Load;

use self::disk::Disk;
pub use self::disk::Fsck;
pub use self::progress::{State, Status};
pub use self::report::{Judgement, KillMoment, Report, Run, ServerRestart};
use crate::error::Result;
use crate::host::Host;
use crate::layout::Layout;
use crate::paging::Paging;
use crate::pair::{DiskServer, Side};
use crate::testbed::Testbed;
use crate::wait::wait_until;
use crate::workload::Workload;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(120);
/// The disk server's moments are drawn apart, so that a seed means the same kills with and without
/// that fault.
const SERVER_SEED: u64 = 0x6469_736b;

/// What happens to the primary's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// It is killed, as by a power failure.
    #[default]
    Kill,
    /// It stands still for so long at least, until the other one has gone on; then it wakes up,
    /// finds that it lost, and halts.
    Freeze(Duration),
}

impl Fault {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze(_) => "freeze",
        }
    }
}

/// What failovers are made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the random moments of the kills come from.
    pub seed: u64,
    /// Silence after which a host takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// The hosts' paging.
    pub paging: Paging,
    /// Another kernel than the testbed's own.
    pub kernel: Option<PathBuf>,
    /// Another initramfs than the testbed's own.
    pub initrd: Option<PathBuf>,
    /// What serves in the guest.
    pub workload: Workload,
    /// What computes in the guest beside Redis.
    pub load: Option<Load>,
    /// What happens to the primary's host.
    pub fault: Fault,
    /// Whether the disk server is killed and started again in each run, before or after that.
    pub restart_disk_server: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            heartbeat_timeout: Duration::from_millis(500),
            paging: Paging::default(),
            kernel: None,
            initrd: None,
            workload: Workload::default(),
            load: None,
            fault: Fault::default(),
            restart_disk_server: false,
        }
    }
}

/// A testbed with two hosts and the disk server, for one failover after the
/// other. The host that was killed is replaced, and the other one is the next
/// primary.
#[derive(Debug)]
pub struct Failovers {
    options: Options,
    random: Rng,
    server_random: Rng,
    runs: u32,
    /// How long the guest's last undisturbed boot took.
    boot: Option<Duration>,
    /// Runs the last guest.
    survivor: Option<Side>,
    primary: Host,
    backup: Host,
    disk_server: DiskServer,
    /// The guest's, if it has one.
    disk: Option<Disk>,
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

impl Failovers {
    /// Starts hosts and disk server.
    ///
    /// # Errors
    ///
    /// When something is not set up, or a host does not boot.
    pub fn start(name: &str, options: Options) -> Result<Self> {
        let testbed = Testbed::new(name)?.with_paging(options.paging);
        let disk = match options.workload.has_disk() {
            true => Some(Disk::new(&Layout::find(), testbed.logs())?),
            false => None,
        };
        let disk_server = DiskServer::start(&testbed)?;
        let [primary, backup] = testbed.start_hosts(["a", "b"])?;
        wait_until("the disk server's answer", LIMIT, || {
            let status = ["disk-server", "status", "--server", disk_server.address()];
            Ok(primary.run(&status)?.exit.success())
        })?;
        Ok(Self {
            random: Rng::with_seed(options.seed),
            server_random: Rng::with_seed(options.seed ^ SERVER_SEED),
            options,
            runs: 0,
            boot: None,
            survivor: None,
            primary,
            backup,
            disk_server,
            disk,
            testbed,
        })
    }

    /// The testbed, for a look.
    #[must_use]
    pub fn testbed(&self) -> &Testbed {
        &self.testbed
    }

    /// The hosts that are up.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.primary, &self.backup]
            .into_iter()
            .filter(|host| host.is_alive())
    }

    /// Ends the guest and the hosts. Logs stay if it did not go well.
    ///
    /// # Errors
    ///
    /// When the guest's host does not answer.
    pub fn end(mut self, well: bool) -> Result<()> {
        let stopped = self.survivor.take().map_or(Ok(()), Side::stop);
        if well && stopped.is_ok() {
            self.testbed.succeed();
        }
        stopped
    }

    /// Two hosts without a guest: the one that outlived the last run is the
    /// primary, and the dead one is replaced. The last guest must end in order.
    fn ready_hosts(&mut self) -> Result<()> {
        self.survivor.take().map_or(Ok(()), Side::stop)?;
        if self.runs > 1 {
            std::mem::swap(&mut self.primary, &mut self.backup);
        }
        for host in [&mut self.primary, &mut self.backup] {
            if !host.is_alive() {
                *host = self.testbed.start_host(&successor(host.name()))?;
            }
        }
        Ok(())
    }
}

/// The name of the host that takes a dead one's place: logs are called after it.
fn successor(name: &str) -> String {
    let letters = name.trim_end_matches(|last: char| last.is_ascii_digit());
    let number: u32 = name[letters.len()..].parse().unwrap_or(1);
    format!("{letters}{}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_replaced_by_hosts_of_other_names() {
        assert_eq!(successor("a"), "a2");
        assert_eq!(successor("a2"), "a3");
        assert_eq!(successor("b99"), "b100");
    }
}
