//! What a person asks about first, of all cuts and crashes that the simulator tries: on real hosts, one after
//! the other, with one guest and one client connection for all of them.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::matrix::{Case, Matrix};
//! use testbed::pair::PATIENCE;
//!
//! let mut matrix = Matrix::start("example", PATIENCE)?;
//! for case in &Case::ALL {
//!     println!("{}", matrix.go_through(case)?);
//! }
//! matrix.end(true)?;
//! # Ok(())
//! # }
//! ```

mod case;
mod row;
mod standing;
mod watch;

use std::time::{Duration, Instant, SystemTime};

pub use self::case::Case;
use self::case::{Member, Trouble};
pub use self::row::Row;
use self::standing::{Part, Process};
use self::watch::Watch;
use crate::disturbance::Traffic;
use crate::error::Result;
use crate::host::Host;
use crate::network::Network;
use crate::pair::{DiskServer, Guest};
use crate::testbed::Testbed;
use crate::wait::{LIMIT, wait_until};
use crate::workload::Client;

/// Where nobody may answer before it is healed, nobody does for so long.
const LATELY: Duration = Duration::from_secs(2);
const HOSTS: usize = 3;

/// Three hosts, a guest on two of them, and its client.
#[derive(Debug)]
pub struct Matrix {
    guest: Guest,
    client: Option<Client>,
    processes: [Option<Process>; HOSTS],
    disk_server: DiskServer,
    hosts: [Host; HOSTS],
    /// Hosts on which nothing is started now.
    struck: [bool; HOSTS],
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

/// Which host has which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    primary: usize,
    backup: usize,
}

impl Matrix {
    /// Starts the hosts, and a guest that is protected. Silence of `heartbeat_timeout` means that a host is
    /// lost.
    ///
    /// # Errors
    ///
    /// When something is not set up, or does not boot.
    pub fn start(name: &str, heartbeat_timeout: Duration) -> Result<Self> {
        let testbed = Testbed::new(name)?;
        let hosts = testbed.start_hosts(["a", "b", "c"])?;
        let disk_server = DiskServer::start(&testbed)?;
        let guest = Guest::redis(name).quick();
        let timeout = heartbeat_timeout.as_millis().to_string();
        let options = ["--heartbeat-timeout", &timeout];
        let side = guest.primary_at_once(&hosts[0], &disk_server, &options)?;
        let client = Client::redis_with_pauses(testbed.client());
        let mut matrix = Self {
            guest,
            client: Some(client),
            processes: [
                Some(Process {
                    side,
                    is_primary: true,
                }),
                None,
                None,
            ],
            disk_server,
            hosts,
            struck: [false; HOSTS],
            testbed,
        };
        matrix.goes_on("after the boot")?;
        matrix.recover("a guest with a backup")?;
        Ok(matrix)
    }

    /// Ends the guest, if it is left, and the hosts. Logs stay if it did not go `well`.
    ///
    /// # Errors
    ///
    /// When the guest does not end in order.
    pub fn end(mut self, well: bool) -> Result<()> {
        if self.client.is_some() {
            let Parts { primary, .. } = self.recover("the guest's end")?;
            if let Some(process) = self.processes[primary].take() {
                process.side.stop()?;
            }
        }
        if well {
            self.testbed.succeed();
        }
        Ok(())
    }

    /// Something goes wrong, and is healed: what became of the guest. What is not as it should be is told in
    /// the row.
    ///
    /// # Errors
    ///
    /// When the guest is not protected before, or a host does not obey.
    pub fn go_through(&mut self, case: &Case) -> Result<Row> {
        let parts = self.recover("a guest with a backup")?;
        self.goes_on("before it")?;
        let end = case.ends_the_guest();
        let mut row = Row::new(case.name);
        if end {
            row.lost = self.settle_with_the_client();
        }
        let mut watch = Watch::start(&self.testbed, &self.hosts)?;
        let struck = (Instant::now(), SystemTime::now());
        for trouble in case.troubles {
            self.strike(*trouble, parts)?;
        }
        self.pass(case.held)?;
        self.judge_meanwhile(case, &watch, &mut row)?;
        row.meanwhile = self.told_standing(parts);
        for trouble in case.troubles {
            self.heal(*trouble, parts, (&mut watch, struck.1))?;
        }
        if end {
            "the guest is gone".clone_into(&mut row.finally);
            return Ok(row);
        }
        let recovered = self.recover("the guest's protection after the healing");
        let goes_on = recovered.and_then(|now| self.goes_on("after the healing").map(|()| now));
        if let Some(host) = watch::comes_back(&watch.turns()?) {
            let name = self.hosts[host].name();
            row.fail(format!("{name} answered again after another host did"));
        }
        let now = match goes_on {
            Ok(now) => now,
            Err(error) => {
                row.fail(error.to_string());
                return Ok(row);
            }
        };
        let process = self.processes[now.primary].as_mut();
        let protected = process.and_then(Process::protected_at);
        row.unprotected =
            Some(protected.map_or(Duration::ZERO, |at| at.saturating_duration_since(struck.0)));
        row.finally = self.told_standing(parts);
        if let Some(client) = &self.client {
            let record = client.record();
            row.silence = Some(record.longest_gap(struck.0));
            match record.loss() {
                None => "nothing".clone_into(&mut row.lost),
                Some(loss) => row.fail(loss),
            }
        }
        Ok(row)
    }

    /// Before anything is healed: the guest goes on where it must, and nobody answers where nobody may.
    fn judge_meanwhile(&mut self, case: &Case, watch: &Watch<HOSTS>, row: &mut Row) -> Result<()> {
        if case.must_go_on() {
            if let Err(error) = self.goes_on("before the healing") {
                row.fail(error.to_string());
            }
            return Ok(());
        }
        for host in watch.lately(LATELY)? {
            let name = self.hosts[host].name();
            row.fail(format!("{name} answers, and could not ask whether it may"));
        }
        Ok(())
    }

    /// The client has further replies.
    fn goes_on(&self, when: &str) -> Result<()> {
        self.client
            .as_ref()
            .map_or(Ok(()), |client| client.goes_on(when))
    }

    /// Takes the client's record before the guest ends: what it lost until then.
    fn settle_with_the_client(&mut self) -> String {
        let Some(client) = self.client.take() else {
            return String::new();
        };
        let record = client.finish();
        match (record.loss(), record.final_counter) {
            (None, Some(counter)) if counter == record.acked() => "the guest".to_owned(),
            (loss, counter) => format!("{loss:?}, {counter:?} of {}", record.acked()),
        }
    }

    fn strike(&mut self, trouble: Trouble, parts: Parts) -> Result<()> {
        match trouble {
            Trouble::NoPower(member) => {
                let host = parts.of(member);
                self.struck[host] = true;
                self.hosts[host].kill();
                self.processes[host] = None;
            }
            Trouble::NoDiskServer => self.disk_server.kill(),
            Trouble::Cut(member, network) => self.hosts[parts.of(member)].cut(network)?,
            Trouble::Mute(member) => {
                let host = &self.hosts[parts.of(member)];
                host.disturb(Network::Logging, Traffic::All, "loss 100%")?;
            }
            Trouble::Frozen(member) => {
                self.struck[parts.of(member)] = true;
                self.hosts[parts.of(member)].freeze()?;
            }
        }
        Ok(())
    }

    /// Puts it right, of what went wrong at that time.
    fn heal(
        &mut self,
        trouble: Trouble,
        parts: Parts,
        (watch, struck): (&mut Watch<HOSTS>, SystemTime),
    ) -> Result<()> {
        match trouble {
            Trouble::NoPower(member) => {
                let host = parts.of(member);
                self.testbed.boot_again(&mut self.hosts[host])?;
                watch.follow(host, &self.testbed, &self.hosts[host])?;
                self.struck[host] = false;
            }
            Trouble::NoDiskServer => self.disk_server.restart(&self.testbed)?,
            Trouble::Cut(member, network) => self.hosts[parts.of(member)].heal(network)?,
            Trouble::Mute(member) => self.hosts[parts.of(member)].undisturb(Network::Logging)?,
            Trouble::Frozen(member) => {
                let host = parts.of(member);
                self.hosts[host].thaw()?;
                wait_until("the end of the one that slept", LIMIT, || {
                    let process = self.processes[host].as_mut();
                    Ok(process.and_then(Process::part).is_none())
                })?;
                watch.slept(host, struck);
                self.struck[host] = false;
            }
        }
        Ok(())
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) -> Result<()> {
        let since = Instant::now();
        wait_until("that time passes", LIMIT, || {
            self.stand_by()?;
            Ok(since.elapsed() >= time)
        })
    }

    /// Waits until the guest has a backup that protects it, and no process is left that does not know.
    fn recover(&mut self, what: &str) -> Result<Parts> {
        let mut found = None;
        wait_until(what, LIMIT, || {
            self.stand_by()?;
            found = self.parts();
            Ok(found.is_some())
        })?;
        Ok(found.expect("it was found"))
    }

    /// Who runs the guest and who protects it, where there is one of each and nobody who is in doubt.
    fn parts(&mut self) -> Option<Parts> {
        let parts = self
            .processes
            .each_mut()
            .map(|it| it.as_mut().and_then(Process::part));
        let only = |part: Part| {
            let mut hosts = (0..HOSTS).filter(|host| parts[*host] == Some(part));
            hosts.next().filter(|_| hosts.next().is_none())
        };
        if parts.contains(&Some(Part::Contests)) || parts.contains(&Some(Part::Alone)) {
            return None;
        }
        Some(Parts {
            primary: only(Part::Protected)?,
            backup: only(Part::Follows)?,
        })
    }

    /// Starts a backup on every host that has none: it waits until it is proposed.
    fn stand_by(&mut self) -> Result<()> {
        for host in 0..HOSTS {
            let process = &mut self.processes[host];
            if self.struck[host] || process.as_mut().and_then(Process::part).is_some() {
                continue;
            }
            let side = self
                .guest
                .idle_backup(&self.hosts[host], &self.disk_server)?;
            *process = Some(Process {
                side,
                is_primary: false,
            });
        }
        Ok(())
    }

    /// How the guest stands, in the names that hosts had before.
    fn told_standing(&mut self, before: Parts) -> String {
        let parts = self
            .processes
            .each_mut()
            .map(|it| it.as_mut().and_then(Process::part));
        let name = |host| match host {
            host if host == before.primary => "primary",
            host if host == before.backup => "backup",
            _ => "idle host",
        };
        let is = |part| (0..HOSTS).find(|host| parts[*host] == Some(part) && !self.struck[*host]);
        let Some(on) = is(Part::Alone).or_else(|| is(Part::Protected)) else {
            return "nobody".to_owned();
        };
        match is(Part::Follows).filter(|_| parts[on] == Some(Part::Protected)) {
            Some(backup) => format!("{}, with {}", name(on), name(backup)),
            None => format!("{}, alone", name(on)),
        }
    }
}

impl Parts {
    fn of(self, member: Member) -> usize {
        match member {
            Member::Primary => self.primary,
            Member::Backup => self.backup,
        }
    }
}
