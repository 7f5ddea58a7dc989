//! Failovers: a guest is replicated from one host to another, a client has its
//! requests answered over one connection (increments of a counter in Redis, or
//! commits in PostgreSQL on the shared disk), the primary's host is killed or
//! frozen, and the client's figures tell what was lost. Then the guest ends, or
//! the host that was killed boots again and joins, and the other one is killed.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::failover::{Failovers, Options, Judgement};
//!
//! let mut failovers = Failovers::start("example", Options::default())?;
//! let run = failovers.run(&mut ())?;
//! assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
//! failovers.end(true)?;
//! # Ok(())
//! # }
//! ```

mod daemons;
mod disk;
mod join;
mod judge;
mod kill_plan;
mod life;
mod progress;
mod report;
mod scene;

use std::path::PathBuf;
use std::time::Duration;

use guest_images::load::Load;

use self::daemons::Daemons;
pub use self::disk::{Disk, Fsck};
use self::kill_plan::Plans;
pub use self::progress::{State, Status, Watcher};
pub use self::report::{Judgement, KillMoment, Report, Run, ServerRestart};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::Layout;
use crate::paging::Paging;
use crate::pair::{Boot, DiskServer, Guest, Side};
use crate::testbed::Testbed;
use crate::wait::{LIMIT, wait_until};
use crate::workload::Workload;

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

/// What the backup does with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// It executes it.
    #[default]
    Hot,
    /// It keeps it, and executes it when the primary is lost.
    Cold,
}

impl Standby {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }

    /// A backup's options.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Hot => &[],
            Self::Cold => &["--cold", "/tmp/cold", "--cold-replay", "10"],
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
    /// What the backup does with the log.
    pub standby: Standby,
    /// What happens to the primary's host.
    pub fault: Fault,
    /// Whether the disk server is killed and started again in each run, before or after that, and once more
    /// while a backup joins.
    pub restart_disk_server: bool,
    /// What the guest does at its boot.
    pub boot: Boot,
    /// Whether a client of Redis rests after each reply (`Client::redis_with_pauses`).
    pub client_rests: bool,
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
            standby: Standby::default(),
            fault: Fault::default(),
            restart_disk_server: false,
            boot: Boot::default(),
            client_rests: false,
        }
    }
}

impl Options {
    /// The backup's own.
    fn backup(&self) -> Vec<&'static str> {
        [self.paging.options(), self.standby.options()].concat()
    }

    /// Puts those of the guest's images that are not the testbed's own into a host. They have the same
    /// path in all hosts.
    fn provide_images(&self, host: &Host, guest: &mut Guest) -> Result<()> {
        if let Some(kernel) = &self.kernel {
            guest.kernel = host.provide(kernel, "vmlinux")?;
        }
        if let Some(initrd) = &self.initrd {
            guest.initrd = host.provide(initrd, "initrd")?;
        }
        Ok(())
    }
}

/// A testbed with two hosts and the disk server, for one failover after the
/// other. The host that was killed boots again, and the other one is the next
/// primary.
#[derive(Debug)]
pub struct Failovers {
    options: Options,
    plans: Plans,
    /// Runs the last guest, and its backup if it has one.
    running: Option<(Side, Option<Side>)>,
    hosts: [Host; 2],
    /// Which of them is the next primary.
    primary: usize,
    disk_server: DiskServer,
    /// Those of the hosts, from the first guest on that they looked after.
    daemons: Option<Daemons>,
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
        let hosts = testbed.start_hosts(["a", "b"])?;
        wait_until("the disk server's answer", LIMIT, || {
            let status = ["disk-server", "status", "--server", disk_server.address()];
            let status = [&status[..], disk_server.key_options()].concat();
            Ok(hosts[0].run(&status)?.exit.success())
        })?;
        Ok(Self {
            plans: Plans::new(options.seed),
            options,
            running: None,
            hosts,
            primary: 0,
            disk_server,
            daemons: None,
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
        self.hosts.iter().filter(|host| host.is_alive())
    }

    /// What runs the guest of the last run, which went well. One with a disk has its console there.
    pub fn survivor(&mut self) -> Option<&mut Side> {
        self.running.as_mut().map(|(primary, _)| primary)
    }

    /// Waits until the guest, which has a disk, has switched itself off, and looks at the file system:
    /// nothing has mended it meanwhile. Ends the hosts. Logs stay if it is not clean.
    ///
    /// # Errors
    ///
    /// When there is no such guest, it does not end, or not with status 0.
    pub fn ends_by_itself(mut self) -> Result<Fsck> {
        let (Some((primary, _)), Some(disk)) = (self.running.take(), &self.disk) else {
            return Err(Error::Wrong {
                what: "a guest with a disk".to_owned(),
                seen: "none".to_owned(),
            });
        };
        let (exit, told) = primary.end(LIMIT)?;
        if !exit.success() {
            return Err(Error::Wrong {
                what: format!("the guest's end: {exit}"),
                seen: format!("{:?}{}", told.events, told.last_words()),
            });
        }
        self.disk_server.kill();
        let found = disk.as_it_is()?;
        if found == Fsck::Clean {
            self.testbed.succeed();
        }
        Ok(found)
    }

    /// Ends the guest and the hosts. Logs stay if it did not go well.
    ///
    /// # Errors
    ///
    /// When the guest's host does not answer.
    pub fn end(mut self, well: bool) -> Result<()> {
        let stopped = self.end_the_guest();
        if well && stopped.is_ok() {
            self.testbed.succeed();
        }
        stopped
    }

    /// The last guest must end in order, on all hosts that have it.
    fn end_the_guest(&mut self) -> Result<()> {
        if let Some(daemons) = &mut self.daemons {
            return daemons.end();
        }
        let Some((primary, backup)) = self.running.take() else {
            return Ok(());
        };
        primary.stop()?;
        backup.map_or(Ok(()), Side::ends_in_order)
    }

    /// Two hosts without a guest.
    fn ready_hosts(&mut self) -> Result<()> {
        self.end_the_guest()?;
        for (which, host) in self.hosts.iter_mut().enumerate() {
            if !host.is_alive() {
                self.testbed.boot_again(host)?;
                if let Some(daemons) = &mut self.daemons {
                    daemons.killed(which);
                }
            }
        }
        Ok(())
    }
}
