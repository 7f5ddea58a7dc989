//! Small guests on three hosts that look after them, for a long time: each host is killed and boots again, and each
//! is drained and undrained, in turn. Each guest has a client that counts over one connection.
//!
//! A step begins when all guests are protected, so none ever loses both of its hosts. It is over when all of them are
//! protected again, and their clients go on; and the journal must tell it.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::rounds::{Options, Rounds};
//!
//! let mut rounds = Rounds::start("example", Options::default(), &mut |line| println!("{line}"))?;
//! for _ in 0..6 {
//!     println!("{}", rounds.step()?);
//! }
//! println!("{}", rounds.end()?);
//! # Ok(())
//! # }
//! ```

mod fault;
mod journal;

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use disk_server::fleet::{HostVerb, State, Subject, VmStatus, What};

pub use self::fault::Fault;
use self::journal::{Copies, Figures, Journal};
use crate::error::{Error, Result};
use crate::fleet::{Daemon, Operator, log_of};
use crate::host::Host;
use crate::network::guest_address;
use crate::pair::{DiskServer, Guest};
use crate::testbed::Testbed;
use crate::wait::wait_until;
use crate::workload::Client;

/// The hosts.
const HOSTS: [&str; 3] = ["a", "b", "c"];
/// Until all guests are protected that boot at the same time on emulated hosts.
const BOOT: Duration = Duration::from_secs(1800);
/// Until all guests are protected again that had a copy on one host.
const PROTECTED: Duration = Duration::from_secs(900);
/// Until it is known that a host is dead, or lives.
const KNOWN: Duration = Duration::from_secs(120);
/// For a guest's end.
const END: Duration = Duration::from_secs(120);
/// Between an answer and a client's next line: ten guests that are busy are too much for emulated hosts.
const REST: Duration = Duration::from_secs(2);

/// What rounds are made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many guests.
    pub guests: u8,
    /// What an emulated host has, in MiB: for a while all guests are on two of them.
    pub host_mib: u32,
    /// Silence after which a host takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// Whether hosts, disk server and operator do without keys.
    pub plain: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            guests: 10,
            host_mib: 4096,
            // Replies of one of twenty processes on three emulated processors take two.
            heartbeat_timeout: Duration::from_secs(6),
            // Twenty processes that join each other would leave emulated processors no time for the guests.
            plain: true,
        }
    }
}

/// Three hosts, and their guests.
#[derive(Debug)]
pub struct Rounds {
    /// Each guest's, by its name.
    clients: BTreeMap<String, Client>,
    /// Those of the hosts that are up, in their order.
    daemons: Vec<Option<Daemon>>,
    hosts: Vec<Host>,
    operator: Operator,
    /// Where each guest's copies are, as the journal has it up to its entry of this number.
    copies: BTreeMap<String, Copies>,
    seen: u64,
    steps: usize,
    service: DiskServer,
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

/// What came of a step.
#[derive(Debug, Clone)]
pub struct Step {
    number: usize,
    fault: Fault,
    host: &'static str,
    took: Duration,
    figures: Figures,
    /// The longest that a client waited for a reply.
    gap: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} {}: {}; {:.0} s; a client waited {} ms",
            self.number,
            self.host,
            self.fault,
            self.figures,
            self.took.as_secs_f64(),
            self.gap.as_millis()
        )
    }
}

impl Rounds {
    /// Starts hosts and guests, and waits until all guests are protected and serve. `tell` is told of each.
    ///
    /// # Errors
    ///
    /// When something is not set up, a host does not boot, or a guest is not protected.
    pub fn start(name: &str, options: Options, tell: &mut dyn FnMut(String)) -> Result<Self> {
        let testbed = Testbed::new(name)?.with_host_memory(options.host_mib);
        let testbed = match options.plain {
            true => testbed.plain(),
            false => testbed,
        };
        let service = DiskServer::start(&testbed)?;
        let hosts = Vec::from(testbed.start_hosts(HOSTS)?);
        let daemons = hosts.iter().map(|host| Daemon::start(host, &service));
        let daemons = daemons
            .map(|daemon| daemon.map(Some))
            .collect::<Result<_>>()?;
        let operator = Operator::new(&testbed, &service);
        let mut rounds = Self {
            clients: BTreeMap::new(),
            daemons,
            hosts,
            operator,
            copies: BTreeMap::new(),
            seen: 0,
            steps: 0,
            service,
            testbed,
        };
        for number in 1..=options.guests {
            rounds.start_guest(number, &options)?;
        }
        rounds.have_booted()?;
        rounds.protected(BOOT)?;
        rounds.serve("once it was protected")?;
        rounds.look()?;
        for (vm, copies) in &rounds.copies {
            tell(format!("{vm}: {} to {}", copies.primary, copies.backup));
        }
        Ok(rounds)
    }

    fn start_guest(&mut self, number: u8, options: &Options) -> Result<()> {
        let name = format!("guest-{number:02}");
        let guest = Guest::counting(&name, number).quick();
        self.operator
            .define(&guest, &self.hosts[0], options.heartbeat_timeout)?;
        self.operator.start(&name)?;
        let position = self.testbed.client();
        let client = Client::counting(position, guest_address(number), REST);
        self.clients.insert(name, client);
        Ok(())
    }

    /// Does the next thing to the next host: over six steps each is killed, and each is drained.
    ///
    /// # Errors
    ///
    /// When a guest, its client or the journal is not as it should be then.
    pub fn step(&mut self) -> Result<Step> {
        let which = self.steps % HOSTS.len();
        let fault = [Fault::Kill, Fault::Drain][self.steps % 2];
        self.steps += 1;
        let host = HOSTS[which];
        let before = self.copies.clone();
        let since = Instant::now();
        match fault {
            Fault::Kill => self.kill(which)?,
            Fault::Drain => self.drain(which)?,
        }
        self.protected(PROTECTED)?;
        let took = since.elapsed();
        self.serve(&format!("after step {}", self.steps))?;
        let journal = self.look()?;
        let figures = journal.tells(fault, host, &before, &self.copies);
        let figures = figures.map_err(|what| Error::Wrong {
            what: format!("step {}, {host} {fault:?}: the journal: {what}", self.steps),
            seen: journal.to_string(),
        })?;
        let gaps = self
            .clients
            .values()
            .map(|client| client.longest_gap(since));
        Ok(Step {
            number: self.steps,
            fault,
            host,
            took,
            figures,
            gap: gaps.max().unwrap_or_default(),
        })
    }

    /// Waits until all guests are protected, and looks where, and what the journal has since this was looked at last:
    /// both of the same moment.
    fn look(&mut self) -> Result<Journal> {
        loop {
            self.copies = self.protected(PROTECTED)?;
            let journal = Journal(self.operator.journal(self.seen)?);
            if self.protected(PROTECTED)? == self.copies {
                self.seen = journal.last();
                return Ok(journal);
            }
        }
    }

    fn kill(&mut self, which: usize) -> Result<()> {
        self.daemons[which] = None;
        self.hosts[which].kill();
        self.is_known(which, What::Dead {})?;
        self.testbed.boot_again(&mut self.hosts[which])?;
        let daemon = Daemon::start(&self.hosts[which], &self.service)?;
        self.daemons[which] = Some(daemon);
        self.is_known(which, What::Live {})
    }

    fn drain(&mut self, which: usize) -> Result<()> {
        let host = HOSTS[which];
        let order = self.operator.order_host(host, HostVerb::Drain)?;
        self.operator
            .outcome(order, PROTECTED)?
            .map_err(|why| Error::Wrong {
                what: format!("{host} is not empty: {why}"),
                seen: String::new(),
            })?;
        self.protected(PROTECTED)?;
        self.operator.order_host(host, HostVerb::Undrain).map(drop)
    }

    /// Waits until the journal has that of a host.
    fn is_known(&self, which: usize, what: What) -> Result<()> {
        let host = HOSTS[which];
        let is_it = |subject: &Subject| matches!(subject, Subject::Host(it) if it.as_str() == host);
        wait_until(&format!("{what:?} of {host} in the journal"), KNOWN, || {
            let entries = self.operator.latest(None)?;
            let mut entries = entries.iter().filter(|entry| entry.number > self.seen);
            Ok(entries.any(|entry| is_it(&entry.subject) && entry.what == what))
        })
    }

    /// Waits until all guests are protected, by copies that are both live: where these are.
    fn protected(&self, limit: Duration) -> Result<BTreeMap<String, Copies>> {
        let guests = self.wait("that all guests are protected", limit, |guests| {
            let is_protected = |guest: &VmStatus| {
                guest.state == State::Protected
                    && guest.pending.is_none()
                    && copies(guest).is_some()
            };
            guests.iter().all(is_protected)
        })?;
        let copies = guests.iter().filter_map(|guest| {
            let copies = copies(guest)?;
            Some((guest.vm.as_str().to_owned(), copies))
        });
        Ok(copies.collect())
    }

    /// Waits until the guests are as `condition` wants it, as long as their clients are well.
    fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&[VmStatus]) -> bool,
    ) -> Result<Vec<VmStatus>> {
        let mut guests = Vec::new();
        let waited = wait_until(what, limit, || {
            for (vm, client) in &self.clients {
                if let Some(trouble) = client.trouble() {
                    let what = format!("reply of {vm} any more, waiting for {what}");
                    return Err(Error::Client { what, trouble });
                }
            }
            guests = self.operator.statuses()?;
            Ok(guests.len() == self.clients.len() && condition(&guests))
        });
        match waited {
            Ok(()) => Ok(guests),
            Err(error) => Err(self.with_what_is_known(error, &guests)),
        }
    }

    fn with_what_is_known(&self, error: Error, guests: &[VmStatus]) -> Error {
        let mut seen = String::new();
        for guest in guests {
            let copies = copies(guest);
            seen.push_str(&format!("{}: {} {copies:?}\n", guest.vm, guest.state));
            if guest.state == State::Protected {
                continue;
            }
            let vm = guest.vm.as_str();
            seen.push_str(&self.operator.history(vm).unwrap_or_default());
            for host in self.hosts.iter().filter(|host| host.is_alive()) {
                let log = log_of(host, vm).unwrap_or_default();
                seen.push_str(&format!("its log on {}:\n{log}", host.name()));
            }
        }
        let what = error.to_string();
        Error::Wrong { what, seen }
    }

    /// Waits until each client has its first reply: a guest is protected before its system is up.
    fn have_booted(&self) -> Result<()> {
        let has_booted = |client: &Client| client.first_reply().is_some();
        self.wait("that all guests serve", BOOT, |_| {
            self.clients.values().all(has_booted)
        })
        .map(drop)
    }

    /// Each client has further replies: all at the same time, for each takes as long as its guest is busy.
    fn serve(&self, when: &str) -> Result<()> {
        thread::scope(|scope| {
            let clients = self.clients.iter();
            let waits = clients.map(|(vm, client)| {
                let what = format!("of {vm} {when}");
                scope.spawn(move || client.goes_on(&what))
            });
            let waits: Vec<_> = waits.collect();
            let mut waits = waits.into_iter();
            waits.try_for_each(|wait| wait.join().expect("it does not panic"))
        })
    }

    /// Ends all guests in order: what their clients counted.
    ///
    /// # Errors
    ///
    /// When a client has lost something, or a guest does not end.
    pub fn end(mut self) -> Result<String> {
        let mut replies = 0;
        for (vm, client) in std::mem::take(&mut self.clients) {
            let record = client.finish();
            if let Some(what) = record.lost() {
                let what = format!("the client of {vm}: {what}");
                let seen = format!("{:?}", record.replies.last());
                return Err(Error::Wrong { what, seen });
            }
            replies += record.replies.len();
            self.operator.stop(&vm, END)?;
        }
        self.testbed.succeed();
        Ok(format!("{replies} replies, nothing lost, no reconnect"))
    }
}

/// Where a guest's copies are, if both are there and live.
fn copies(guest: &VmStatus) -> Option<Copies> {
    let host = |member: &Option<disk_server::fleet::Member>| {
        let member = member.as_ref().filter(|member| member.live)?;
        Some(member.host.as_str().to_owned())
    };
    Some(Copies {
        primary: host(&guest.placement.primary)?,
        backup: host(&guest.placement.backup)?,
    })
}
