//! What is known of a host that has pinged, and why it is not proposed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::guests::{Candidates, Guests};
use super::host::{Capabilities, MAX_PROCESSES, Ping, Role, Tended, Unfit};
use super::text::Text;
use crate::arbiter::VmName;

/// How often a host pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A host is dead when so many pings stayed away. For so many intervals a proposal stands, and nothing
/// is proposed by a service that has just started: it does not know yet who there is, and a proposal of
/// the time before may still be under way.
pub const MISSED_PINGS: u32 = 5;

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
    /// As the backup of these guests.
    pub(super) passed_over: BTreeMap<VmName, PassedOver>,
}

/// It is not proposed again at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PassedOver {
    pub(super) reason: Text,
    /// For so many intervals.
    pub(super) left: u32,
}

impl Host {
    pub(super) fn is_live(&self) -> bool {
        self.missed < MISSED_PINGS
    }

    pub(super) fn pass_over(&mut self, vm: &VmName, reason: Text, left: u32) {
        let passed_over = PassedOver { reason, left };
        self.passed_over.insert(vm.clone(), passed_over);
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
        let declined = || {
            let passed_over = self.passed_over.get(vm)?;
            Some(Unfit::Declined(passed_over.reason.clone()))
        };
        let out_of_reach = || {
            let address = address?;
            let reaches = !is_loopback(address.ip()) || is_loopback(self.from);
            (!reaches).then_some(Unfit::OutOfReach(address))
        };
        let unwanted = guests.unwanted(vm, &self.ping.host.host());
        let shortfall = || self.ping.carries.shortfall(needs);
        (unwanted.or_else(shortfall))
            .or_else(out_of_reach)
            .or_else(declined)
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

/// Where others reach an address of a host that pings from there.
pub(crate) fn reached_at(address: SocketAddr, from: IpAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(from.to_canonical(), address.port()),
        false => address,
    }
}

/// Whether only programs of the same machine reach it, or come from there.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
