//! The view service: hosts ping it, and it proposes. It comes and goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use disk_server::arbiter::{Record, VmName};
use disk_server::views::{MISSED_PINGS, Ping, Proposal, Views};

use super::pinger::Pinger;
use super::process::{Run, claimant};

/// Where everybody is.
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The service, and pings that may come late.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Service {
    views: Views,
    pub(super) pingers: BTreeMap<Run, Pinger>,
    /// The last of each host that was idle. What a primary says of itself is compared with the record.
    pub(super) came: Vec<Ping>,
    /// What came to the service before it started anew.
    pub(super) late: Vec<Ping>,
}

impl Service {
    /// One that has run for long, and this run, which pings.
    pub(super) fn running(run: Run) -> Self {
        let mut views = Views::new();
        (0..MISSED_PINGS).for_each(|_| views.tick());
        let mut it = Self {
            views,
            pingers: BTreeMap::new(),
            came: Vec::new(),
            late: Vec::new(),
        };
        it.add(run);
        it
    }

    /// A run has begun that pings.
    pub(super) fn add(&mut self, run: Run) {
        self.pingers.insert(run, Pinger::new(run));
    }

    pub(super) fn ping(&mut self, ping: &Ping, record: &Record) -> Option<Proposal> {
        (self.views.ping(ping, ADDRESS, |_: &VmName| record.clone())).expect("few hosts")
    }

    /// Whether it has this run for alive.
    pub(super) fn has(&self, run: Run, record: &Record) -> bool {
        let mut hosts = self.views.hosts(None, |_: &VmName| record.clone());
        hosts.any(|it| it.live && it.host == claimant(run))
    }

    /// It dies, and starts again without a memory.
    pub(super) fn crash(&mut self) {
        self.views = Views::new();
        self.late.append(&mut self.came);
    }

    /// All pings stay away for so long that every host counts as dead.
    pub(super) fn silence(&mut self) {
        (0..MISSED_PINGS).for_each(|_| self.views.tick());
    }

    pub(super) fn has_memory(&self) -> bool {
        !self.came.is_empty()
    }
}
