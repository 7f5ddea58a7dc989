//! The service's own decisions.
//!
//! Time comes in as [`Views::tick`], once in [`PING_INTERVAL`](super::PING_INTERVAL), and not as an hour: a host is dead after
//! some *missed* pings, and a service that did not run itself meanwhile has missed none.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::guests::{Candidates, Guests};
use super::host::{Capabilities, Condition, Ping, Role, Unfit};
use super::known::{FORGOTTEN_PINGS, Host, MISSED_PINGS, reached_at};
use super::proposal::{Became, Proposal, Standing};
use super::text::Text;
use crate::arbiter::{Claimant, HostName, Record, VmName};

/// The most hosts that are remembered.
pub const MAX_HOSTS: usize = 1000;

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
    /// Where its guest wants a backup: why it does not fit. Of a daemon: why its host takes no guest at all.
    pub unfit: Option<Unfit>,
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

impl Views {
    /// A service that has just started, and knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A [`PING_INTERVAL`](super::PING_INTERVAL) has passed.
    pub fn tick(&mut self) {
        self.age = (self.age + 1).min(MISSED_PINGS);
        self.hosts.values_mut().for_each(Host::tick);
        self.hosts.retain(|_, host| host.missed < FORGOTTEN_PINGS);
        let hosts = &mut self.hosts;
        self.proposals.retain(|vm, standing| {
            standing.age += 1;
            let Some(host) = hosts.get_mut(&standing.host) else {
                return false;
            };
            let is_over = standing.age >= standing.intervals();
            if is_over {
                let reason = Text::cut("nothing came of it in time");
                host.pass_over(vm, Unfit::Declined(reason), MISSED_PINGS);
            }
            !is_over && host.is_live()
        });
    }

    /// A host pings, from this address. The answer: what is proposed to the host. A ping that is older than the
    /// last changes nothing, and is answered by nothing; one that is repeated, because its answer was lost, has
    /// the same answer again.
    ///
    /// # Errors
    /// [`TooManyHosts`] live ones are known, and this one is not among them.
    pub fn ping(
        &mut self,
        ping: &Ping,
        from: IpAddr,
        guests: impl Guests,
    ) -> Result<Option<Proposal>, TooManyHosts> {
        self.note(ping, from);
        let last = self.hosts.get(&ping.host).ok_or(TooManyHosts)?;
        if last.ping.number != ping.number {
            return Ok(None);
        }
        let vm = match last.ping.role.vm() {
            Some(vm) => Some(vm.clone()),
            None => self.proposed_to(&ping.host).map(|(vm, _)| vm.clone()),
        };
        if let Some(vm) = vm {
            self.propose(&vm, &guests);
        }
        let own = self.proposed_to(&ping.host);
        let proposal = own.map(|(_, standing)| standing.proposal.clone());
        if proposal.is_some() && ping.role.vm().is_none() {
            self.ask(&ping.host);
        }
        Ok(proposal)
    }

    /// The answer to the last ping of this daemon has a guest for it.
    pub(crate) fn ask(&mut self, daemon: &Claimant) {
        if let Some(host) = self.hosts.get_mut(daemon) {
            host.was_asked = true;
        }
    }

    /// Whether this daemon has, or is about to have, a guest that its pings do not show yet.
    pub(crate) fn is_asked(&self, daemon: &Claimant) -> bool {
        let was_asked = self.hosts.get(daemon).is_some_and(|host| host.was_asked);
        was_asked || self.proposed_to(daemon).is_some()
    }

    /// What a host has still to be told, or to begin with.
    fn proposed_to(&self, host: &Claimant) -> Option<(&VmName, &Standing)> {
        let mut proposals = self.proposals.iter();
        proposals.find(|(_, standing)| standing.host == *host && !standing.taken)
    }

    /// What is known of the hosts, in the order of their names, behind `after`.
    pub fn hosts<'a>(
        &'a self,
        after: Option<&Claimant>,
        guests: impl Guests + 'a,
    ) -> impl Iterator<Item = HostRecord> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        (self.hosts.range::<Claimant, _>((from, Unbounded))).map(move |(name, host)| {
            let mut unfit = None;
            if let Some(vm) = host.ping.role.vm() {
                let want = self.wanted(vm, &guests.record(vm));
                let of_others = want.filter(|want| want.primary.ping.host != *name);
                unfit = of_others.and_then(|want| host.unfit(vm, want.given(), &guests));
            } else if guests.is_drained(&name.host()) {
                unfit = Some(Unfit::Draining);
            }
            HostRecord {
                host: name.clone(),
                live: host.is_live(),
                carries: host.ping.carries.clone(),
                role: host.ping.role.clone(),
                proposed: self.proposed_to(name).is_some(),
                unfit,
            }
        })
    }

    /// Which hosts could be the backup of `vm`, which needs this, and why the others could not. The host of its
    /// primary is none of them.
    pub(crate) fn candidates(
        &self,
        vm: &VmName,
        needs: &Capabilities,
        guests: &impl Guests,
    ) -> (Vec<Claimant>, Vec<(Claimant, Unfit)>) {
        let record = guests.record(vm);
        let primary = record.holder.as_ref().map(Claimant::host);
        let address = self.wanted(vm, &record).map(|want| want.address);
        let candidates = guests.candidates(vm);
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        for (name, host) in &self.hosts {
            let is_of_guest = host.ping.role.vm().is_none_or(|own| own == vm);
            if !is_of_guest || !host.is_among(candidates) || primary == Some(name.host()) {
                continue;
            }
            match host.unfit(vm, (needs, address), guests) {
                Some(why) => unfit.push((name.clone(), why)),
                None => fit.push(name.clone()),
            }
        }
        (fit, unfit)
    }

    /// Whether a host is on its way to be the backup of `vm`, or asked to be.
    pub(crate) fn is_proposed(&self, vm: &VmName) -> bool {
        self.proposals.contains_key(vm)
    }

    /// The last ping of a host, whether that is live, and where it came from.
    pub(crate) fn last(&self, host: &Claimant) -> Option<(&Ping, bool, IpAddr)> {
        let host = self.hosts.get(host)?;
        Some((&host.ping, host.is_live(), host.from))
    }

    /// Whether the host's pings come.
    pub(crate) fn is_live(&self, host: &Claimant) -> bool {
        self.hosts.get(host).is_some_and(Host::is_live)
    }

    /// How many pings of a host stayed away.
    pub(crate) fn missed(&self, host: &Claimant) -> u32 {
        self.hosts.get(host).map_or(u32::MAX, |host| host.missed)
    }

    /// Whether the service has run for long enough to know who there is.
    pub(crate) fn is_settled(&self) -> bool {
        self.age >= MISSED_PINGS
    }

    /// The run of ftvm of this name as the primary of the view of `record`, if it is live.
    pub(crate) fn primary(&self, vm: &VmName, record: &Record) -> Option<(&Ping, &Condition)> {
        let host = self.hosts.get(record.holder.as_ref()?)?;
        match &host.ping.role {
            Role::Primary {
                vm: own,
                epoch,
                condition,
                ..
            } if own == vm && *epoch == record.epoch && host.is_live() => {
                Some((&host.ping, condition))
            }
            _ => None,
        }
    }

    /// A host has failed with a guest, for this reason: it is not given that for so many intervals, or for longer
    /// where it has failed before.
    pub(crate) fn pass_over(&mut self, host: &Claimant, vm: &VmName, reason: &Text, first: u32) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.pass_over(vm, Unfit::Declined(reason.clone()), first);
        }
    }

    /// A host was of use to a guest: what it failed in before is forgotten.
    pub(crate) fn has_succeeded(&mut self, host: &HostName, vm: &VmName) {
        for (name, it) in &mut self.hosts {
            if name.host() == *host {
                it.has_succeeded(vm);
            }
        }
    }

    /// Why a daemon is passed over for a guest now.
    pub(crate) fn passed_over(&self, daemon: &Claimant, vm: &VmName) -> Option<Unfit> {
        self.hosts.get(daemon)?.passed_over(vm)
    }

    /// What runs of ftvm have said of `vm` counts no longer: it is not to be there any more.
    pub(crate) fn forget(&mut self, vm: &VmName) {
        self.hosts.retain(|_, host| host.ping.role.vm() != Some(vm));
        self.proposals.remove(vm);
    }

    /// The runs of ftvm that say they are of `vm`.
    pub(crate) fn runs_of<'a>(
        &'a self,
        vm: &'a VmName,
    ) -> impl Iterator<Item = (&'a Ping, bool)> + 'a {
        let hosts = self.hosts.values();
        let of_it = hosts.filter(move |host| host.ping.role.vm() == Some(vm));
        of_it.map(|host| (&host.ping, host.is_live()))
    }

    /// Takes a ping in, unless there is a later one, or no room for another host.
    fn note(&mut self, ping: &Ping, from: IpAddr) {
        let Some(host) = self.hosts.get_mut(&ping.host) else {
            if self.hosts.len() < MAX_HOSTS || self.forget_one() {
                let host = Host::new(ping.clone(), from);
                self.hosts.insert(ping.host.clone(), host);
            }
            return;
        };
        if ping.number <= host.ping.number {
            return;
        }
        host.ping = ping.clone();
        host.from = from;
        host.missed = 0;
        host.was_asked = false;
        self.proposals.retain(|vm, standing| {
            standing.host != ping.host
                || match standing.became_of(vm, &ping.role) {
                    Became::Stands => true,
                    Became::Nothing(unfit) => {
                        if let Some(unfit) = unfit {
                            host.pass_over(vm, unfit, MISSED_PINGS);
                        }
                        false
                    }
                }
        });
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
    fn propose(&mut self, vm: &VmName, guests: &impl Guests) {
        let record = guests.record(vm);
        let candidates = guests.candidates(vm);
        let want = self.wanted(vm, &record);
        let Some(want) = want.filter(|_| candidates != Candidates::Nobody) else {
            self.proposals.remove(vm);
            return;
        };
        let proposal = Proposal {
            vm: vm.clone(),
            view: record.epoch,
            primary: want.primary.ping.host.clone(),
            address: want.address,
        };
        let could = |host: &Host| {
            host.is_among(candidates) && host.unfit(vm, want.given(), guests).is_none()
        };
        let is_last_choice = |host: &Host| guests.is_drained(&host.ping.host.host());
        let has_choice = (self.hosts.values()).any(|it| could(it) && !is_last_choice(it));
        let fits = |host: &Host| could(host) && !(has_choice && is_last_choice(host));
        let stands = self.proposals.get(vm).is_some_and(|standing| {
            standing.proposal == proposal
                && (standing.taken || self.hosts.get(&standing.host).is_some_and(fits))
        });
        if stands {
            return;
        }
        // One order at a time.
        let is_free = |name: &Claimant, host: &Host| {
            let other = self.proposed_to(name);
            let is_other = other.is_some_and(|(other, _)| other != vm);
            !is_other && !host.was_asked && !guests.is_busy(name)
        };
        let idle = (self.hosts.iter()).filter(|(name, host)| fits(host) && is_free(name, host));
        let best = idle.max_by_key(|(name, host)| (host.ping.carries.memory_mib, Reverse(*name)));
        let best = best.map(|(name, _)| name.clone());
        self.proposals.remove(vm);
        if let Some(host) = best.filter(|_| self.is_settled()) {
            let standing = Standing {
                host,
                proposal,
                age: 0,
                taken: false,
            };
            self.proposals.insert(vm.clone(), standing);
        }
    }
}

impl Want<'_> {
    fn given(&self) -> (&Capabilities, Option<SocketAddr>) {
        (self.needs, Some(self.address))
    }
}
