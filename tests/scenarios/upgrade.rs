//! Three hosts and their disk server go from one version of ftvm to the next, one after the other, and a guest is
//! protected meanwhile: by a host of the other version, too, and each takes over from the other when its process is
//! killed. Nobody connects anew, and nothing is lost.
//!
//! The next version has another field in a message of the handshake, in each heartbeat and in each ping: who does not
//! speak the version that both know is not understood.

use std::time::{Duration, Instant};

use disk_server::arbiter::protocol;
use disk_server::fleet::{HostVerb, OrderNumber, Verb};
use logging_channel::codec;
use testbed::fleet::{Daemon, Operator, log_of};
use testbed::pair::{DiskServer, Guest, PATIENCE};
use testbed::workload::Client;
use testbed::{
    Host, LIMIT, Layout, NEXT_DISK_SERVER, Result, SABOTAGED_FTVM, Testbed, guest_address,
    wait_until,
};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const VM: &str = "db";
/// Between two requests of the client.
const REST: Duration = Duration::from_millis(200);

/// What is released speaks these; the next version one more of each.
const LOG: u16 = codec::PROTOCOL_VERSION;
const SERVICE: u16 = protocol::VERSIONS.newest;

#[test]
fn hosts_are_upgraded_one_by_one_and_the_guest_stays_protected() -> Result<()> {
    let testbed = Testbed::new("upgrade")?;
    let mut service = DiskServer::start(&testbed)?;
    let mut stage = Stage::new(&testbed, &service)?;
    let since = Instant::now();
    let (first, second) = stage.protected_in(LOG)?;
    let mut hosts = HOSTS.into_iter();
    let third = hosts.find(|host| ![&first[..], &second].contains(host));
    let third = third.expect("there are three").to_owned();

    stage.drain(&third)?;
    stage.upgrade(&third, &service, SERVICE)?;
    stage.undrain(&third)?;

    // The only hosts that may have the guest now are one of each version.
    stage.drain(&second)?;
    assert_eq!(stage.protected_in(LOG)?, (first.clone(), third.clone()));
    stage.order(Verb::TestFailover {})?;
    assert_eq!(stage.protected_in(LOG)?, (third.clone(), first.clone()));
    stage.order(Verb::TestFailover {})?;
    assert_eq!(stage.protected_in(LOG)?, (first.clone(), third.clone()));
    stage.upgrade(&second, &service, SERVICE)?;
    stage.undrain(&second)?;

    stage.drain(&first)?;
    assert_eq!(stage.protected_in(LOG + 1)?, (third, second));
    stage.upgrade(&first, &service, SERVICE)?;
    stage.undrain(&first)?;

    service.upgrade(&testbed, &Layout::find().program(NEXT_DISK_SERVER)?)?;
    for daemon in &mut stage.daemons {
        daemon.speaks(SERVICE + 1, LIMIT)?;
    }
    stage.order(Verb::Failover {})?;
    stage.protected_in(LOG + 1)?;

    let gap = stage.client.lost_nothing().longest_gap(since);
    eprintln!(
        "{gap:?} at most without a reply, {:.0} s for all of it",
        since.elapsed().as_secs_f64()
    );
    stage.operator.stop(VM, LIMIT)?;
    testbed.succeed();
    Ok(())
}

/// A guest on three hosts, its client, and an operator.
struct Stage {
    hosts: Vec<Host>,
    daemons: Vec<Daemon>,
    operator: Operator,
    client: Client,
}

impl Stage {
    fn new(testbed: &Testbed, service: &DiskServer) -> Result<Self> {
        let hosts: Vec<Host> = testbed.start_hosts(HOSTS)?.into();
        let daemons = hosts.iter().map(|host| {
            let mut daemon = Daemon::start(host, service)?;
            daemon.speaks(SERVICE, LIMIT)?;
            Ok(daemon)
        });
        let daemons: Vec<Daemon> = daemons.collect::<Result<_>>()?;
        let operator = Operator::new(testbed, service);
        operator.define(&Guest::counting(VM, 1).quick(), &hosts[0], PATIENCE)?;
        operator.start(VM)?;
        operator.protected(VM, LIMIT)?;
        Ok(Self {
            hosts,
            daemons,
            operator,
            client: Client::counting(testbed.client(), guest_address(1), REST),
        })
    }

    fn host(&self, name: &str) -> &Host {
        let mut hosts = self.hosts.iter();
        hosts
            .find(|host| host.name() == name)
            .expect("it is one of them")
    }

    /// Where the guest runs and where its backup is, once it is protected and serves, and both hosts say that they
    /// speak this version.
    fn protected_in(&self, version: u16) -> Result<(String, String)> {
        let (primary, backup) = self.operator.protected(VM, LIMIT)?;
        self.client.goes_on("once it was protected")?;
        let told = [
            (&primary, "PROTECTED by the backup at "),
            (&backup, "backup of "),
        ];
        for (host, what) in told {
            let words = format!("protocol {version})");
            let mut log = String::new();
            let is_told = || {
                log = log_of(self.host(host), VM)?;
                let last = log.lines().rfind(|line| line.contains(what));
                Ok(last.is_some_and(|line| line.contains(&words)))
            };
            wait_until(&format!("`{what}…{words}` of {host}"), LIMIT, is_told)
                .inspect_err(|_| eprintln!("the log of {VM} on {host}:\n{log}"))?;
        }
        eprintln!("{primary} with its backup {backup} in version {version}");
        Ok((primary, backup))
    }

    fn is_done(&self, order: OrderNumber) -> Result<()> {
        let outcome = self.operator.outcome(order, LIMIT)?;
        assert!(
            outcome.is_ok(),
            "{outcome:?}\n{}",
            self.operator.history(VM)?
        );
        self.client.goes_on("after an order")
    }

    fn order(&self, verb: Verb) -> Result<()> {
        self.is_done(self.operator.order(VM, verb)?)
    }

    fn drain(&self, host: &str) -> Result<()> {
        self.is_done(self.operator.order_host(host, HostVerb::Drain)?)
    }

    fn undrain(&self, host: &str) -> Result<()> {
        self.is_done(self.operator.order_host(host, HostVerb::Undrain)?)
    }

    /// An empty host gets the next version, which speaks this with the disk server.
    fn upgrade(&mut self, host: &str, service: &DiskServer, version: u16) -> Result<()> {
        let mut daemons = self.daemons.iter();
        let place = daemons.position(|daemon| daemon.host() == host);
        self.daemons
            .swap_remove(place.expect("it has one"))
            .kill()?;
        let program = Layout::find().program(SABOTAGED_FTVM)?;
        let mut daemon = Daemon::start_as(self.host(host), service, &program)?;
        daemon.speaks(version, LIMIT)?;
        self.daemons.push(daemon);
        Ok(())
    }
}
