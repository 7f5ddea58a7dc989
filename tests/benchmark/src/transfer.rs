//! How a guest's whole state gets to the other host while it runs: a backup joins it, or QEMU migrates
//! it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::pair::{DiskServer, Guest, Side};
use testbed::{Error, Host, HostProcess, Network, Result, Signal, wait_until};

use crate::configuration::HEARTBEAT_MS;
use crate::figures::{Figures, NOT_ZERO, PAUSE, ROUNDS, SENT, TIME};
use crate::qmp;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a migration is looked at. Each look takes time of the host.
const LOOK: Duration = Duration::from_millis(100);
/// Where a migrated guest arrives.
const PORT: &str = "9998";
/// Bytes that QEMU may send in a second: more than any network here carries. Its default is 128 MiB, which
/// these networks do not carry either. How long the guest may stand still is QEMU's default, 300 ms.
const BANDWIDTH: u64 = 10_000_000_000;
/// Of a page of memory, in bytes.
const PAGE: f64 = 4096.0;

/// What a transfer took.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// When it began.
    pub(crate) from: Instant,
    /// When it was complete.
    pub(crate) to: Instant,
    /// Its figures.
    pub(crate) figures: Figures,
}

impl Transfer {
    fn new<const N: usize>(from: Instant, millis: f64, figures: [(&str, f64); N]) -> Self {
        let figures = figures.map(|(name, value)| (name.to_owned(), value));
        let mut figures = Figures::from(figures);
        figures.insert(TIME.to_owned(), millis / 1e3);
        Self {
            from,
            to: from + Duration::from_secs_f64(millis / 1e3),
            figures,
        }
    }
}

/// A guest that runs alone, which backups may join.
#[derive(Debug)]
pub(crate) struct Joining {
    guest: Guest,
    pub(crate) primary: Side,
}

impl Joining {
    pub(crate) fn start(guest: Guest, host: &Host, disk_server: &DiskServer) -> Result<Self> {
        let options = ["--heartbeat-timeout", HEARTBEAT_MS];
        let primary = guest.primary_at_once(host, disk_server, &options)?;
        Ok(Self { guest, primary })
    }

    /// Has a backup join the guest, which is alone again afterwards.
    pub(crate) fn join(
        &mut self,
        [primary, backup]: [&Host; 2],
        disk_server: &DiskServer,
    ) -> Result<Transfer> {
        let seen = self.primary.told().events.len();
        let backup = self.guest.backup(backup, primary, disk_server)?;
        let what = "the protection of the guest";
        let (at, joined) = self.primary.wait_until(what, LIMIT, |told| {
            let (at, _) = told.after(seen, "protected").next()?;
            Some((at, told.joined(seen)?))
        })?;
        backup.signal(Signal::SIGKILL)?;
        backup.end(LIMIT)?;
        self.primary
            .wait_until("the loss of the backup", LIMIT, |told| {
                told.after(seen, "live").next().map(drop)
            })?;
        let number = |value: Option<u64>| value.unwrap_or_default() as f64;
        let millis = number(joined.join_ms);
        let figures = [
            (PAUSE, number(joined.pause_ms)),
            (SENT, number(joined.bytes) / 1e6),
            (ROUNDS, number(joined.rounds)),
        ];
        let from = at - Duration::from_secs_f64(millis / 1e3);
        Ok(Transfer::new(from, millis, figures))
    }
}

/// A QEMU, which can be migrated from one of two hosts to the other, and back.
#[derive(Debug)]
pub(crate) struct Migration {
    argv: Vec<String>,
    pub(crate) process: HostProcess,
    /// On which of them it is.
    host: usize,
}

impl Migration {
    /// Starts it on the first one, with these options.
    pub(crate) fn start(argv: Vec<String>, host: &Host) -> Result<Self> {
        let mut process = spawn(&argv, host, &[])?;
        qmp::greet(&mut process)?;
        let parameters = json!({ "max-bandwidth": BANDWIDTH });
        qmp::execute(&mut process, "migrate-set-parameters", &parameters)?;
        Ok(Self {
            argv,
            process,
            host: 0,
        })
    }

    /// Migrates it to the other one of the hosts.
    pub(crate) fn migrate(&mut self, hosts: [&Host; 2]) -> Result<Transfer> {
        let other = 1 - self.host;
        let incoming = format!("tcp:0.0.0.0:{PORT}");
        let mut target = spawn(&self.argv, hosts[other], &["-incoming", &incoming])?;
        qmp::greet(&mut target)?;
        let parameters = json!({ "max-bandwidth": BANDWIDTH });
        qmp::execute(&mut target, "migrate-set-parameters", &parameters)?;

        let address = hosts[other].address(Network::Logging);
        let uri = json!({ "uri": format!("tcp:{address}:{PORT}") });
        let from = Instant::now();
        qmp::execute(&mut self.process, "migrate", &uri)?;
        let mut state = Value::Null;
        wait_until("the migration of the guest", LIMIT, || {
            std::thread::sleep(LOOK);
            state = qmp::execute(&mut self.process, "query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(true),
                Some("failed" | "cancelled") => Err(Error::Refused {
                    host: hosts[self.host].name().to_owned(),
                    reason: format!("QEMU does not migrate the guest: {state}"),
                }),
                _ => Ok(false),
            }
        })?;
        let source = std::mem::replace(&mut self.process, target);
        source.signal(Signal::SIGKILL)?;
        source.wait(LIMIT)?;
        self.host = other;

        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let memory = &state["ram"];
        let zero = number(&memory["duplicate"]) * PAGE;
        let figures = [
            (PAUSE, number(&state["downtime"])),
            (SENT, number(&memory["transferred"]) / 1e6),
            (NOT_ZERO, (number(&memory["total"]) - zero) / 1e6),
            (ROUNDS, number(&memory["dirty-sync-count"])),
        ];
        Ok(Transfer::new(from, number(&state["total-time"]), figures))
    }
}

fn spawn(argv: &[String], host: &Host, more: &[&str]) -> Result<HostProcess> {
    let argv = argv.iter().map(String::as_str);
    let all = argv.chain(qmp::OPTIONS).chain(more.iter().copied());
    host.spawn(&all.collect::<Vec<_>>())
}
