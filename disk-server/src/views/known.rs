//! What is known of a host that has pinged, and why it is not proposed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::backoff::Backoff;
use super::guests::{Candidates, Guests};
use super::host::{Capabilities, MAX_PROCESSES, Ping, Role, Tended, Unfit};
use crate::arbiter::VmName;

/// How often a host pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A host is dead when so many pings stayed away. For so many intervals a proposal stands, and nothing
/// is proposed by a service that has just started: it does not know yet who there is, and a proposal of
/// the time before may still be under way.
pub const MISSED_PINGS: u32 = 5;

/// However often a host has failed with a guest, it is passed over for so many intervals at most: one that was
/// mended may be all that there is.
const LONGEST_PASSED_OVER: u32 = 60;

/// One that is dead is not told any more when so many did.
pub const FORGOTTEN_PINGS: u32 = 600;

/// A host that has pinged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// Its last ping.
    pub(super) ping: Ping,
    pub(super) from: IpAddr,
    /// Intervals since then.
    pub(super) missed: u32,
    /// It is a daemon, and the answer to its last ping had a guest for it: its memory is not what it said.
    pub(super) was_asked: bool,
    /// With these guests, after it has failed with them.
    passed_over: BTreeMap<VmName, PassedOver>,
}

/// It has failed with a guest, and not been of use to it since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PassedOver {
    /// Why it was, the last time.
    unfit: Unfit,
    /// Until this is over it is not given that guest.
    backoff: Backoff,
}

impl Host {
    pub(super) fn new(ping: Ping, from: IpAddr) -> Self {
        Self {
            ping,
            from,
            missed: 0,
            was_asked: false,
            passed_over: BTreeMap::new(),
        }
    }

    /// An interval has passed.
    pub(super) fn tick(&mut self) {
        self.missed += 1;
        let passed_over = self.passed_over.values_mut();
        passed_over.for_each(|it| it.backoff.tick());
    }

    pub(super) fn is_live(&self) -> bool {
        self.missed < MISSED_PINGS
    }

    /// It has failed with a guest: it is passed over for so many intervals, if that was not the first time in a row
    /// for longer.
    pub(super) fn pass_over(&mut self, vm: &VmName, unfit: Unfit, first: u32) {
        let before = self.passed_over.get(vm);
        let mut backoff = before.map_or_else(Backoff::default, |before| before.backoff);
        backoff.fail(first, LONGEST_PASSED_OVER);
        let passed_over = PassedOver { unfit, backoff };
        self.passed_over.insert(vm.clone(), passed_over);
    }

    /// It was of use to a guest: what it failed in before is forgotten.
    pub(super) fn has_succeeded(&mut self, vm: &VmName) {
        self.passed_over.remove(vm);
    }

    /// Why it is passed over for a guest now.
    pub(super) fn passed_over(&self, vm: &VmName) -> Option<Unfit> {
        let passed_over = self.passed_over.get(vm)?;
        (!passed_over.backoff.is_over()).then(|| passed_over.unfit.clone())
    }

    /// Why it is not to be proposed as the backup of `vm`, where this is wanted.
    pub(super) fn unfit(
        &self,
        vm: &VmName,
        (needs, address): (&Capabilities, Option<SocketAddr>),
        guests: &impl Guests,
    ) -> Option<Unfit> {
        if !self.is_live() {
            return Some(Unfit::Dead);
        }
        let record = guests.record(vm);
        // A view's backup that did not get its state may come again.
        let is_member = record.acknowledged && record.backup.as_ref() == Some(&self.ping.host);
        match &self.ping.role {
            Role::Idle { vm: own, .. } if own == vm && !is_member => {}
            Role::Host(tended) if tended.has_room_for(vm) => {}
            _ => return Some(Unfit::HasRole),
        }
        let out_of_reach = || {
            let address = address?;
            let is_near = !is_loopback(address.ip()) || is_loopback(self.from);
            let reaches = is_near && !address.ip().is_unspecified();
            (!reaches).then_some(Unfit::OutOfReach(address))
        };
        let unwanted = guests.unwanted(vm, &self.ping.host.host());
        let shortfall = || self.ping.carries.shortfall(needs);
        (unwanted.or_else(shortfall))
            .or_else(out_of_reach)
            .or_else(|| self.passed_over(vm))
    }

    /// Whether it may be asked to be the backup of a guest for which these are.
    pub(super) fn is_among(&self, candidates: Candidates) -> bool {
        match (candidates, &self.ping.role) {
            (Candidates::Nobody, _) => false,
            (Candidates::Idle, role) => !matches!(role, Role::Host(_)),
            (Candidates::IdleAndDaemons, _) => true,
        }
    }
}

impl Tended {
    /// Whether a process of this guest may be added.
    fn has_room_for(&self, vm: &VmName) -> bool {
        !self.processes.contains_key(vm) && self.processes.len() < MAX_PROCESSES
    }
}

/// Where others reach an address of a host that pings from there. Of one that listens at all of its IPv4 addresses,
/// and pings over IPv6, that is not known, and the address stays unspecified.
pub(crate) fn reached_at(address: SocketAddr, from: IpAddr) -> SocketAddr {
    let from = from.to_canonical();
    let listens_there = address.is_ipv6() || from.is_ipv4();
    match address.ip().is_unspecified() && listens_there {
        true => SocketAddr::new(from, address.port()),
        false => address,
    }
}

/// Whether only programs of the same machine reach it, or come from there.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
