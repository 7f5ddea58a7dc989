//! A guest that hosts look after, with an operator and a client.

use disk_server::fleet::OrderNumber;

use super::{Daemon, Operator, log_of};
use crate::error::Result;
use crate::host::Host;
use crate::pair::{DiskServer, Guest, PATIENCE};
use crate::testbed::Testbed;
use crate::wait::LIMIT;
use crate::workload::Client;

/// A guest on some of these hosts, each with its daemon.
#[derive(Debug)]
pub struct Stage {
    vm: String,
    /// The hosts, as they were named.
    pub hosts: Vec<Host>,
    /// Their daemons, in any order.
    pub daemons: Vec<Daemon>,
    /// Who gives orders.
    pub operator: Operator,
    /// Who asks the guest all the time.
    pub client: Client,
}

impl Stage {
    /// Boots hosts of these names with their daemons, has one of them run the guest and another one be its backup,
    /// and lets a client ask it.
    ///
    /// # Errors
    ///
    /// When a host does not boot, or the guest is not protected in time.
    pub fn start<const N: usize>(
        testbed: &Testbed,
        service: &DiskServer,
        hosts: [&str; N],
        operator: Operator,
        guest: &Guest,
        client: impl FnOnce(&Testbed) -> Client,
    ) -> Result<Self> {
        let hosts: Vec<Host> = testbed.start_hosts(hosts)?.into();
        let daemons = hosts.iter().map(|host| Daemon::start(host, service));
        let daemons: Vec<Daemon> = daemons.collect::<Result<_>>()?;
        operator.define(guest, &hosts[0], PATIENCE)?;
        Self::start_on(hosts, daemons, operator, &guest.name, || client(testbed))
    }

    /// The same, of a guest that is defined, on hosts with their daemons.
    ///
    /// # Errors
    ///
    /// When the guest is not protected in time.
    pub fn start_on(
        hosts: Vec<Host>,
        daemons: Vec<Daemon>,
        operator: Operator,
        vm: &str,
        client: impl FnOnce() -> Client,
    ) -> Result<Self> {
        operator.start(vm)?;
        operator.protected(vm, LIMIT)?;
        let client = client();
        client.goes_on("by its own protected guest")?;
        Ok(Self {
            vm: vm.to_owned(),
            hosts,
            daemons,
            operator,
            client,
        })
    }

    /// The host of this name.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        let host = self.hosts.iter().find(|host| host.name() == name);
        host.expect("it is one of them")
    }

    /// Kills the host of this name, like a power failure.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn kill(&mut self, name: &str) {
        let mut hosts = self.hosts.iter_mut();
        let host = hosts.find(|host| host.name() == name);
        host.expect("it is one of them").kill();
    }

    /// Takes the daemon of a host from the stage.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn take_daemon(&mut self, host: &str) -> Daemon {
        let mut daemons = self.daemons.iter();
        let place = daemons.position(|daemon| daemon.host() == host);
        self.daemons.swap_remove(place.expect("it has one"))
    }

    /// Where the guest runs, and where its backup is, once it is protected and serves.
    ///
    /// # Errors
    ///
    /// When that takes too long: what its processes say is printed.
    pub fn protected(&self) -> Result<(String, String)> {
        let places = self.operator.protected(&self.vm, LIMIT);
        let places = places.inspect_err(|_| self.print_logs())?;
        self.client.goes_on("once it was protected")?;
        Ok(places)
    }

    /// Prints what the guest's processes said last, for a scenario that failed.
    pub fn print_logs(&self) {
        for host in self.hosts.iter().filter(|host| host.is_alive()) {
            let log = log_of(host, &self.vm).unwrap_or_default();
            eprintln!("the log of {} on {}:\n{log}", self.vm, host.name());
        }
    }

    /// The host that has no copy, of three.
    ///
    /// # Errors
    ///
    /// As [`Stage::protected`].
    ///
    /// # Panics
    ///
    /// When all have one.
    pub fn idle_host(&self) -> Result<String> {
        let (primary, backup) = self.protected()?;
        let mut names = self.hosts.iter().map(Host::name);
        let idle = names.find(|name| ![&primary[..], &backup[..]].contains(name));
        Ok(idle.expect("one has no copy").to_owned())
    }

    /// Has `ftvm` do this, which waits until it is done; and waits until the guest has served after it.
    ///
    /// # Errors
    ///
    /// When it fails, or takes too long.
    ///
    /// # Panics
    ///
    /// When it is not said to be done.
    pub fn order(&self, words: &[&str]) -> Result<()> {
        let told = self.operator.told(words)?.pop().unwrap_or_default();
        eprintln!("{}: {told}", words.join(" "));
        assert_eq!(told["outcome"], "done");
        self.client.goes_on("after an order")
    }

    /// The same, and does something as soon as the order is given.
    ///
    /// # Errors
    ///
    /// As [`Stage::order`], and those of `meanwhile`.
    ///
    /// # Panics
    ///
    /// When the order comes to nothing.
    pub fn order_and(
        &mut self,
        words: &[&str],
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let told = self.operator.told(&[words, &["--no-wait"]].concat())?;
        let order = told.iter().find_map(|told| told["order"].as_u64());
        meanwhile(self)?;
        self.is_done(order.expect("the number of an order"))
    }

    /// Waits until an order is done, and the guest has served after it.
    fn is_done(&self, order: OrderNumber) -> Result<()> {
        match self.operator.outcome(order, LIMIT)? {
            Ok(how) => eprintln!("order {order}: {how}"),
            Err(why) => panic!("order {order}: {why}\n{}", self.operator.history(&self.vm)?),
        }
        self.client.goes_on("after an order")
    }
}
