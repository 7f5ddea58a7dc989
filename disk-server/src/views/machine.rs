//! The service's own decisions.
//!
//! Time comes in as [`Views::tick`], once in [`PING_INTERVAL`], and not as an hour: a host is dead after
//! some *missed* pings, and a service that did not run itself meanwhile has missed none.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host::{Capabilities, Ping, Role, Unfit};
use super::text::Text;
use crate::arbiter::{Claimant, Record, VmName};

/// How often a host pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A host is dead when so many pings stayed away. For so many intervals a proposal stands, and nothing
/// is proposed by a service that has just started: it does not know yet who there is, and a proposal of
/// the time before may still be under way.
pub const MISSED_PINGS: u32 = 5;

/// One that is dead is not told any more when so many did.
pub const FORGOTTEN_PINGS: u32 = 600;

/// The most hosts that are remembered.
pub const MAX_HOSTS: usize = 1000;

/// To an idle host: be this guest's next backup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// The guest.
    pub vm: VmName,
    /// The view that it is to follow. Once there is another one the proposal is over.
    pub view: u64,
    /// Its primary.
    pub primary: Claimant,
    /// Where that takes backups.
    pub address: SocketAddr,
}

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Which.
    pub host: Claimant,
    /// Its pings come.
    pub live: bool,
    /// What it can carry.
    pub carries: Capabilities,
    /// What it does.
    pub role: Role,
    /// It is proposed to its guest's primary.
    pub proposed: bool,
    /// Where its guest wants a backup: why it does not fit.
    pub unfit: Option<Unfit>,
}

/// A host that has pinged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host {
    /// Its last ping.
    ping: Ping,
    from: IpAddr,
    /// Intervals since then.
    missed: u32,
    declined: Option<PassedOver>,
}

/// It is not proposed again at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PassedOver {
    reason: Text,
    /// For so many intervals.
    left: u32,
}

/// A proposal that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Standing {
    host: Claimant,
    proposal: Proposal,
    /// Intervals.
    age: u32,
}

/// There is no room to remember another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_HOSTS} hosts ping already, and no more are proposed: end those that are not needed")]
pub struct TooManyHosts;

/// That a primary wants a backup.
struct Want<'a> {
    primary: &'a Host,
    /// Where that takes it.
    address: SocketAddr,
    needs: &'a Capabilities,
}

/// The hosts, and what is proposed to them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Views {
    /// Intervals since the start, at most [`MISSED_PINGS`].
    age: u32,
    hosts: BTreeMap<Claimant, Host>,
    /// At most one for each guest; and none to a host of another guest.
    proposals: BTreeMap<VmName, Standing>,
}

impl Host {
    fn is_live(&self) -> bool {
        self.missed < MISSED_PINGS
    }

    fn pass_over(&mut self, reason: Text) {
        let left = MISSED_PINGS;
        self.declined = Some(PassedOver { reason, left });
    }

    /// Why it is not to be proposed as the backup of `vm`, where this is wanted.
    fn unfit(&self, vm: &VmName, want: &Want<'_>, record: &Record) -> Option<Unfit> {
        if !self.is_live() {
            return Some(Unfit::Dead);
        }
        // A view's backup that did not get its state may come again.
        let is_member = record.acknowledged && record.backup.as_ref() == Some(&self.ping.host);
        match &self.ping.role {
            Role::Idle { vm: own, .. } if own == vm && !is_member => {}
            _ => return Some(Unfit::HasRole),
        }
        let declined = || {
            let passed_over = self.declined.as_ref()?;
            Some(Unfit::Declined(passed_over.reason.clone()))
        };
        let out_of_reach = || {
            let reaches = !is_loopback(want.address.ip()) || is_loopback(self.from);
            (!reaches).then_some(Unfit::OutOfReach(want.address))
        };
        let shortfall = self.ping.carries.shortfall(want.needs);
        shortfall.or_else(out_of_reach).or_else(declined)
    }
}

impl Views {
    /// A service that has just started, and knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A [`PING_INTERVAL`] has passed.
    pub fn tick(&mut self) {
        self.age = (self.age + 1).min(MISSED_PINGS);
        for host in self.hosts.values_mut() {
            host.missed += 1;
            host.declined = host.declined.take().and_then(PassedOver::tick);
        }
        self.hosts.retain(|_, host| host.missed < FORGOTTEN_PINGS);
        for standing in self.proposals.values_mut() {
            standing.age += 1;
            if standing.age >= MISSED_PINGS
                && let Some(host) = self.hosts.get_mut(&standing.host)
            {
                host.pass_over(Text::cut("nothing came of it in time"));
            }
        }
        let hosts = &self.hosts;
        self.proposals.retain(|_, standing| {
            let host = hosts.get(&standing.host);
            standing.age < MISSED_PINGS && host.is_some_and(Host::is_live)
        });
    }

    /// A host pings, from this address; `record` is what the arbiter has of a guest. The answer: what is
    /// proposed to the host. A ping that is older than the last changes nothing, and is answered by nothing; one
    /// that is repeated, because its answer was lost, has the same answer again.
    ///
    /// # Errors
    /// [`TooManyHosts`] live ones are known, and this one is not among them.
    pub fn ping(
        &mut self,
        ping: &Ping,
        from: IpAddr,
        record: impl Fn(&VmName) -> Record,
    ) -> Result<Option<Proposal>, TooManyHosts> {
        self.note(ping, from);
        let last = self.hosts.get(&ping.host).ok_or(TooManyHosts)?;
        if last.ping.number != ping.number {
            return Ok(None);
        }
        let Some(vm) = last.ping.role.vm().cloned() else {
            return Ok(None);
        };
        self.propose(&vm, &record(&vm));
        let standing = self.proposals.get(&vm);
        let own = standing.filter(|standing| standing.host == ping.host);
        Ok(own.map(|standing| standing.proposal.clone()))
    }

    /// What is known of the hosts, in the order of their names, behind `after`.
    pub fn hosts<'a>(
        &'a self,
        after: Option<&Claimant>,
        record: impl Fn(&VmName) -> Record + 'a,
    ) -> impl Iterator<Item = HostRecord> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        (self.hosts.range::<Claimant, _>((from, Unbounded))).map(move |(name, host)| {
            let mut unfit = None;
            if let Some(vm) = host.ping.role.vm() {
                let record = record(vm);
                let want = self.wanted(vm, &record);
                let of_others = want.filter(|want| want.primary.ping.host != *name);
                unfit = of_others.and_then(|want| host.unfit(vm, &want, &record));
            }
            HostRecord {
                host: name.clone(),
                live: host.is_live(),
                carries: host.ping.carries.clone(),
                role: host.ping.role.clone(),
                proposed: self
                    .proposals
                    .values()
                    .any(|standing| standing.host == *name),
                unfit,
            }
        })
    }

    /// Takes a ping in, unless there is a later one, or no room for another host.
    fn note(&mut self, ping: &Ping, from: IpAddr) {
        let Some(host) = self.hosts.get_mut(&ping.host) else {
            if self.hosts.len() < MAX_HOSTS || self.forget_one() {
                let host = Host {
                    ping: ping.clone(),
                    from,
                    missed: 0,
                    declined: None,
                };
                self.hosts.insert(ping.host.clone(), host);
            }
            return;
        };
        if ping.number <= host.ping.number {
            return;
        }
        let before = std::mem::replace(&mut host.ping, ping.clone());
        host.from = from;
        host.missed = 0;
        let Some(vm) = before.role.vm() else { return };
        let proposed = self.proposals.get(vm);
        let Some(standing) = proposed.filter(|standing| standing.host == ping.host) else {
            return;
        };
        match &ping.role {
            Role::Idle { vm: now, declined } if now == vm => {
                let view = standing.proposal.view;
                if let Some(declined) = declined.as_ref().filter(|it| it.view == view) {
                    host.pass_over(declined.reason.clone());
                    self.proposals.remove(vm);
                }
            }
            _ => drop(self.proposals.remove(vm)),
        }
    }

    /// Makes room by forgetting the one that has been dead for longest.
    fn forget_one(&mut self) -> bool {
        let dead = self.hosts.iter().filter(|(_, host)| !host.is_live());
        let longest = dead.max_by_key(|(_, host)| host.missed);
        let Some(name) = longest.map(|(name, _)| name.clone()) else {
            return false;
        };
        self.hosts.remove(&name).is_some()
    }

    /// The primary of the current view of `vm`, if it is live and wants a backup. Who is to follow, only
    /// the primary says, dead or not: that its view's backup is not acknowledged means nothing here.
    fn wanted(&self, vm: &VmName, record: &Record) -> Option<Want<'_>> {
        let primary = self.hosts.get(record.holder.as_ref()?)?;
        match &primary.ping.role {
            Role::Primary {
                vm: own,
                epoch,
                wants: Some(wanted),
                ..
            } if own == vm && *epoch == record.epoch && primary.is_live() => Some(Want {
                primary,
                address: reached_at(wanted.address, primary.from),
                needs: &wanted.needs,
            }),
            _ => None,
        }
    }

    /// Ends what is proposed for `vm` if it is over, and proposes the best host where there is none.
    fn propose(&mut self, vm: &VmName, record: &Record) {
        let Some(want) = self.wanted(vm, record) else {
            self.proposals.remove(vm);
            return;
        };
        let proposal = Proposal {
            vm: vm.clone(),
            view: record.epoch,
            primary: want.primary.ping.host.clone(),
            address: want.address,
        };
        let fits = |host: &Host| host.unfit(vm, &want, record).is_none();
        let stands = self.proposals.get(vm).is_some_and(|standing| {
            standing.proposal == proposal && self.hosts.get(&standing.host).is_some_and(fits)
        });
        if stands {
            return;
        }
        let idle = self.hosts.iter().filter(|(_, host)| fits(host));
        let best = idle.max_by_key(|(name, host)| (host.ping.carries.memory_mib, Reverse(*name)));
        let best = best.map(|(name, _)| name.clone());
        self.proposals.remove(vm);
        if let Some(host) = best.filter(|_| self.age >= MISSED_PINGS) {
            let standing = Standing {
                host,
                proposal,
                age: 0,
            };
            self.proposals.insert(vm.clone(), standing);
        }
    }
}

impl PassedOver {
    fn tick(self) -> Option<Self> {
        let left = self.left.checked_sub(1).filter(|left| *left > 0)?;
        Some(Self { left, ..self })
    }
}

/// Where others reach an address of a host that pings from there.
fn reached_at(address: SocketAddr, from: IpAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(from.to_canonical(), address.port()),
        false => address,
    }
}

/// Whether only programs of the same machine reach it, or come from there.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
