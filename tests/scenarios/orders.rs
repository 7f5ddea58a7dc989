//! What operators order on three hosts, one after the other, while a client asks all the time: nothing is lost, and
//! nobody connects anew. Daemons are killed in the middle of it, and of two opposite orders the later one counts.

use std::time::{Duration, Instant};

use disk_server::fleet::{HostVerb, OrderNumber, Reason, State, Verb};
use testbed::fleet::{Daemon, Operator, log_of};
use testbed::pair::{DiskServer, Guest, PATIENCE};
use testbed::workload::Client;
use testbed::{Host, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);
const HOSTS: [&str; 3] = ["a", "b", "c"];
const VM: &str = "db";

#[test]
fn orders_move_a_guest_under_load_and_nothing_is_lost() -> Result<()> {
    let testbed = Testbed::new("orders")?;
    let service = DiskServer::start(&testbed)?;
    let mut stage = Stage::new(&testbed, &service)?;
    let since = Instant::now();
    stage.hand_over()?;
    stage.drain_and_undrain_at_once()?;
    for (place, host) in HOSTS.into_iter().enumerate() {
        stage.drain(host, place == 1)?;
    }
    stage.migrate()?;
    stage.restart_the_backup()?;
    stage.test_failover_without_a_daemon()?;
    stage.suspend_and_resume()?;

    let Stage {
        anna, ben, client, ..
    } = stage;
    let gap = client.lost_nothing().longest_gap(since);
    eprintln!("{gap:?} at most without a reply");
    let fail_over = anna.order(VM, Verb::Failover {})?;
    let stop = ben.order(VM, Verb::Stop {})?;
    let outcome = anna.outcome(fail_over, LIMIT)?;
    assert_eq!(outcome, Err(format!("replaced by order {stop} of ben")));
    let outcome = ben.outcome(stop, LIMIT)?;
    assert_eq!(outcome.as_deref(), Ok("it is stopped"));
    testbed.succeed();
    Ok(())
}

/// A guest on three hosts, its client, and two operators.
struct Stage<'a> {
    service: &'a DiskServer,
    daemons: Vec<Daemon>,
    hosts: Vec<Host>,
    anna: Operator,
    ben: Operator,
    client: Client,
}

impl<'a> Stage<'a> {
    fn new(testbed: &Testbed, service: &'a DiskServer) -> Result<Self> {
        let hosts: Vec<Host> = testbed.start_hosts(HOSTS)?.into();
        let daemons = hosts.iter().map(|host| Daemon::start(host, service));
        let daemons: Vec<Daemon> = daemons.collect::<Result<_>>()?;
        let [anna, ben] = ["anna", "ben"].map(|it| Operator::called(it, testbed, service));
        anna.define(&Guest::redis(VM).quick(), &hosts[0], PATIENCE)?;
        anna.start(VM)?;
        let stage = Self {
            service,
            daemons,
            hosts,
            anna,
            ben,
            client: Client::redis(testbed.client()),
        };
        stage.protected()?;
        stage.client.goes_on("by its own protected guest")?;
        Ok(stage)
    }

    /// Where the guest runs, and where its backup is, once it is protected.
    fn protected(&self) -> Result<(String, String)> {
        let protected = self.anna.protected(VM, LIMIT);
        protected.inspect_err(|_| {
            for host in &self.hosts {
                let log = log_of(host, VM).unwrap_or_default();
                eprintln!("the log of {VM} on {}:\n{log}", host.name());
            }
        })
    }

    /// The host that has no copy.
    fn idle_host(&self) -> Result<&'static str> {
        let (primary, backup) = self.protected()?;
        let mut hosts = HOSTS.into_iter();
        let idle = hosts.find(|host| ![&primary[..], &backup[..]].contains(host));
        Ok(idle.expect("there are three"))
    }

    fn is_done(&self, order: OrderNumber) -> Result<()> {
        let outcome = self.anna.outcome(order, LIMIT)?;
        assert!(outcome.is_ok(), "{outcome:?}\n{}", self.anna.history(VM)?);
        eprintln!("order {order}: {}", outcome.unwrap_or_default());
        self.client.goes_on("after an order")
    }

    fn order(&self, verb: Verb) -> Result<()> {
        self.is_done(self.anna.order(VM, verb)?)
    }

    /// A host's daemon is killed, and started again when the client has had replies without it.
    fn restart_daemon(&mut self, host: &str) -> Result<()> {
        let of_host = |daemon: &Daemon| daemon.host() == host;
        let place = self.daemons.iter().position(of_host);
        let daemon = self.daemons.swap_remove(place.expect("it has one"));
        daemon.kill()?;
        self.client.goes_on("without a daemon")?;
        let mut hosts = self.hosts.iter();
        let host = hosts
            .find(|it| it.name() == host)
            .expect("it is one of them");
        self.daemons.push(Daemon::start(host, self.service)?);
        Ok(())
    }

    fn hand_over(&self) -> Result<()> {
        let (primary, backup) = self.protected()?;
        self.order(Verb::Failover {})?;
        assert_eq!(self.protected()?, (backup, primary));
        eprintln!("{:?}", self.anna.status(VM)?.last_failover);
        Ok(())
    }

    fn drain_and_undrain_at_once(&self) -> Result<()> {
        let (primary, _) = self.protected()?;
        let drain = self.anna.order_host(&primary, HostVerb::Drain)?;
        let undrain = self.ben.order_host(&primary, HostVerb::Undrain)?;
        let outcome = self.anna.outcome(drain, LIMIT)?;
        assert_eq!(outcome, Err(format!("replaced by order {undrain} of ben")));
        let outcome = self.ben.outcome(undrain, LIMIT)?;
        assert_eq!(outcome.as_deref(), Ok("noted"));
        self.protected().map(drop)
    }

    /// Everything leaves a host; if so, its daemon is away meanwhile.
    fn drain(&mut self, host: &str, without_daemon: bool) -> Result<()> {
        let drain = self.anna.order_host(host, HostVerb::Drain)?;
        if without_daemon {
            self.restart_daemon(host)?;
        }
        self.is_done(drain)?;
        let (primary, backup) = self.protected()?;
        assert!(![&primary, &backup].contains(&&host.to_owned()), "{host}");
        self.is_done(self.anna.order_host(host, HostVerb::Undrain)?)
    }

    fn migrate(&self) -> Result<()> {
        let (primary, _) = self.protected()?;
        let idle = self.idle_host()?;
        let to = idle.parse().expect("a name");
        self.order(Verb::MigrateBackup { to })?;
        assert_eq!(self.protected()?, (primary, idle.to_owned()));
        let idle = self.idle_host()?;
        let to = idle.parse().expect("a name");
        self.order(Verb::MigratePrimary { to })?;
        assert_eq!(self.protected()?.0, idle);
        Ok(())
    }

    fn restart_the_backup(&self) -> Result<()> {
        let backup = || Ok::<_, testbed::Error>(self.anna.status(VM)?.placement.backup);
        let (primary, _) = self.protected()?;
        let before = backup()?;
        self.order(Verb::RestartBackup {})?;
        assert_eq!(self.protected()?.0, primary);
        assert_ne!(
            backup()?.map(|it| it.claimant),
            before.map(|it| it.claimant)
        );
        Ok(())
    }

    fn test_failover_without_a_daemon(&mut self) -> Result<()> {
        let (_, backup) = self.protected()?;
        let failover = self.anna.order(VM, Verb::TestFailover {})?;
        self.restart_daemon(&backup)?;
        self.is_done(failover)?;
        assert_eq!(self.protected()?.0, backup);
        Ok(())
    }

    fn suspend_and_resume(&self) -> Result<()> {
        self.order(Verb::SuspendProtection {})?;
        let state = self.anna.status(VM)?.state;
        let State::NotProtected(Reason::Suspended { by }) = &state else {
            panic!("{state}");
        };
        assert_eq!(by.as_str(), "anna");
        self.order(Verb::ResumeProtection {})?;
        self.protected().map(drop)
    }
}
