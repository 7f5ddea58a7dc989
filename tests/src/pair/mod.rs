//! A guest replicated on two hosts, started by hand and looked at closely: for
//! scenarios that need more than a failover from end to end.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::{LIMIT, Testbed};
//! use testbed::pair::{Guest, Pair};
//!
//! let testbed = Testbed::new("pair")?;
//! let mut pair = Pair::start(&testbed, Guest::redis("example"))?;
//! pair.a.kill();
//! pair.backup.wait_for("live", LIMIT)?;
//! pair.client.goes_on("of the backup")?;
//! pair.client.lost_nothing();
//! testbed.succeed();
//! # Ok(())
//! # }
//! ```

mod disk_server;
mod guest;
mod join;
mod side;

pub use self::disk_server::{DiskServer, Export};
pub use self::guest::{Boot, Guest, PATIENCE, QUICK, log_address};
pub use self::join::{JoinProgress, Joined};
pub use self::side::{Outcome, ReportedStats, Side, Told, one_goes_on};
use crate::Output;
use crate::error::Result;
use crate::host::Host;
use crate::protocol::Exit;
use crate::testbed::Testbed;
use crate::workload::Client;

/// A guest with Redis on two hosts, and its client.
#[derive(Debug)]
pub struct Pair {
    /// The client, with pauses, which has had replies.
    pub client: Client,
    /// On `a`.
    pub primary: Side,
    /// On `b`.
    pub backup: Side,
    /// The guest.
    pub guest: Guest,
    /// Decides who goes on.
    pub disk_server: DiskServer,
    /// The primary's host.
    pub a: Host,
    /// The backup's host.
    pub b: Host,
}

impl Pair {
    /// Starts hosts, disk server, and a guest with Redis on both, and waits until a client has
    /// had some replies.
    ///
    /// # Errors
    ///
    /// When one of them cannot be started, or the client gets no replies.
    pub fn start(testbed: &Testbed, guest: Guest) -> Result<Self> {
        Self::start_with(testbed, guest, &[], &[])
    }

    /// As [`Pair::start`], with further options for primary and backup.
    ///
    /// # Errors
    ///
    /// As [`Pair::start`].
    pub fn start_with(
        testbed: &Testbed,
        guest: Guest,
        primary: &[&str],
        backup: &[&str],
    ) -> Result<Self> {
        let hosts = testbed.start_hosts(["a", "b"])?;
        Self::start_on(testbed, hosts, guest, primary, backup)
    }

    /// As [`Pair::start_with`], on two hosts that run already.
    ///
    /// # Errors
    ///
    /// As [`Pair::start`].
    pub fn start_on(
        testbed: &Testbed,
        [a, b]: [Host; 2],
        guest: Guest,
        primary: &[&str],
        backup: &[&str],
    ) -> Result<Self> {
        let disk_server = DiskServer::start(testbed)?;
        let primary = guest.primary(&a, &disk_server, primary)?;
        let backup = guest.backup_with(&b, &a, &disk_server, backup)?;
        let client = Client::redis_with_pauses(testbed.client());
        client.goes_on("after the boot")?;
        Ok(Self {
            client,
            primary,
            backup,
            guest,
            disk_server,
            a,
            b,
        })
    }
}

/// A command whose refusal is looked at: it must fail without a panic.
///
/// # Panics
///
/// When it did not fail as it should, with `text` on its standard error.
pub fn assert_refused(what: &str, output: &Output, text: &str) {
    let context = format!("{what}: {output:?}");
    assert!(
        matches!(output.exit, Exit::Code(1..)),
        "a failure expected, {context}"
    );
    assert!(output.stderr.contains(text), "`{text}` expected, {context}");
    assert!(
        !output.stderr.contains("panicked"),
        "no panic expected, {context}"
    );
}
