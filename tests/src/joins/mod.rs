//! Joins of one guest, one after the other: cut off at random moments, or complete and followed by a
//! failover. A client counts over one connection all the while.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::joins::{Joins, Kind, Moment, Options};
//!
//! let mut joins = Joins::start("example", Options::default())?;
//! println!("{}", joins.join_and_fail_over()?);
//! for kind in Kind::all(7) {
//!     println!("{}", joins.cut(kind, Moment::Told(50.0))?);
//! }
//! joins.end()?;
//! # Ok(())
//! # }
//! ```

mod complete;
mod cut;
mod kind;
mod life;

use std::time::Duration;

use fastrand::Rng;
use guest_images::load::Load;

pub use self::kind::{Cut, Kind, Moment, Outcome};
pub use self::life::Complete;
use self::life::Life;
use crate::error::Result;
use crate::host::Host;
use crate::pair::{DiskServer, PATIENCE};
use crate::testbed::Testbed;
use crate::wait::LIMIT;

/// As long as a join takes where nothing is known of that.
const UNKNOWN: Duration = Duration::from_secs(5);
/// What an emulated host has beside the guest's memory, in MiB.
const FOR_THE_HOST: u32 = 1024;

/// How joins are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it comes from how long disturbances last.
    pub seed: u64,
    /// Silence after which a host takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// What computes in the guest beside Redis.
    pub load: Option<Load>,
    /// The guest's memory, if it is to have another size than usual. Emulated hosts have 1 GiB more.
    pub memory_mib: Option<u32>,
    /// Whether the client rests after each reply (`Client::redis_with_pauses`).
    pub client_rests: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            heartbeat_timeout: PATIENCE,
            load: None,
            memory_mib: None,
            client_rests: false,
        }
    }
}

/// Two hosts, and a guest that runs on one of them, alone.
#[derive(Debug)]
pub struct Joins {
    options: Options,
    random: Rng,
    /// The guest, unless it is gone.
    life: Option<Life>,
    /// Guests so far.
    lives: u32,
    /// How long the last undisturbed join took, from the start of the process that joined.
    took: Duration,
    disk_server: DiskServer,
    hosts: [Host; 2],
    /// On which of them the guest runs.
    on: usize,
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

impl Joins {
    /// Starts hosts and disk server.
    ///
    /// # Errors
    ///
    /// When something is not set up, or a host does not boot.
    pub fn start(name: &str, options: Options) -> Result<Self> {
        let mut testbed = Testbed::new(name)?;
        if let Some(mib) = options.memory_mib {
            testbed = testbed.with_host_memory(mib + FOR_THE_HOST);
        }
        let hosts = testbed.start_hosts(["a", "b"])?;
        let disk_server = DiskServer::start(&testbed)?;
        Ok(Self {
            random: Rng::with_seed(options.seed),
            options,
            life: None,
            lives: 0,
            took: UNKNOWN,
            disk_server,
            hosts,
            on: 0,
            testbed,
        })
    }

    /// Ends the guest and the hosts.
    ///
    /// # Errors
    ///
    /// When the client lost something, or the guest does not end in order.
    pub fn end(mut self) -> Result<()> {
        if let Some(life) = self.life.take() {
            life.end()?;
        }
        self.testbed.succeed();
        Ok(())
    }

    /// The host where a backup joins.
    fn other(&self) -> usize {
        1 - self.on
    }
}
