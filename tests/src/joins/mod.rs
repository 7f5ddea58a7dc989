//! Joins of one guest, one after the other: cut off at random moments, or complete and followed by a
//! failover. A client counts over one connection all the while.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::joins::{Joins, Kind, Options};
//!
//! let mut joins = Joins::start("example", Options::default())?;
//! for kind in Kind::SHARE {
//!     println!("{}", joins.cut(kind)?);
//! }
//! joins.end()?;
//! # Ok(())
//! # }
//! ```

mod cut;
mod kind;
mod life;

use std::time::Duration;

use fastrand::Rng;
use guest_images::load::Load;

pub use self::kind::{Cut, Kind, Outcome};
use self::life::Life;
use crate::error::Result;
use crate::host::Host;
use crate::pair::{DiskServer, PATIENCE};
use crate::testbed::Testbed;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(300);

/// How joins are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the random moments come from.
    pub seed: u64,
    /// Silence after which a host takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// What computes in the guest beside Redis.
    pub load: Option<Load>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            heartbeat_timeout: PATIENCE,
            load: None,
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
    /// Starts hosts, disk server, and the guest; a first join and a failover show how long a join takes.
    ///
    /// # Errors
    ///
    /// When something is not set up, or a host or the guest does not boot.
    pub fn start(name: &str, options: Options) -> Result<Self> {
        let testbed = Testbed::new(name)?;
        let hosts = testbed.start_hosts(["a", "b"])?;
        let disk_server = DiskServer::start(&testbed)?;
        let mut joins = Self {
            random: Rng::with_seed(options.seed),
            options,
            life: None,
            lives: 0,
            took: Duration::ZERO,
            disk_server,
            hosts,
            on: 0,
            testbed,
        };
        joins.join_and_fail_over()?;
        Ok(joins)
    }

    /// What is told last: the client must have lost nothing.
    ///
    /// # Errors
    ///
    /// When it did.
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
