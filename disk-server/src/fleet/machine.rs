//! The service's decisions about guests.
//!
//! Everything follows from what operators want, which is kept, from the arbiter's records, and from pings.
//! What is under way when the service ends is taken up again by the next one, from these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::intents::{Change, Intents, Run};
use super::journal::{Cause, Entry, Subject, What};
use super::order::{Order, OrderNumber};
use super::seen::{Daemon, Seen, Starting};
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::views::{
    Candidates, Ended, Guests, HostRecord, MISSED_PINGS, Ping, Role, Tended, Text, TooManyHosts,
    Unfit, Views,
};

/// A host on which a guest could not be started is passed over for so many intervals.
const START_PASSED_OVER: u32 = 30;

/// A primary that was told to stop has done so within so many intervals.
const STOPPING: u32 = 60;

/// What the arbiter has of a guest.
pub type Records<'a> = &'a dyn Fn(&VmName) -> Record;

/// The hosts, what operators want of them, and how far that is.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    pub(super) views: Views,
    pub(super) intents: Intents,
    pub(super) guests: BTreeMap<VmName, Seen>,
    pub(super) daemons: BTreeMap<HostName, Daemon>,
    /// What happened, and was not taken to the journal yet.
    pub(super) news: Vec<(Subject, What)>,
    /// What is wanted has changed, and not by an operator: an order is done, or a guest has ended.
    pub(super) is_changed: bool,
}

/// What views are told of guests.
pub(super) struct Wishes<'a> {
    pub(super) intents: &'a Intents,
    pub(super) guests: &'a BTreeMap<VmName, Seen>,
    pub(super) records: Records<'a>,
}

impl Guests for Wishes<'_> {
    fn record(&self, vm: &VmName) -> Record {
        (self.records)(vm)
    }

    fn candidates(&self, vm: &VmName) -> Candidates {
        match self.intents.guests.get(vm) {
            Some(kept) if kept.suspended.is_some() => Candidates::Nobody,
            Some(kept) if kept.is_to_run() => Candidates::IdleAndDaemons,
            _ => Candidates::Idle,
        }
    }

    fn unwanted(&self, vm: &VmName, host: &HostName) -> Option<Unfit> {
        if self.intents.is_closed(host, vm) {
            return Some(Unfit::Draining);
        }
        if !self.intents.takes(host, vm) {
            return Some(Unfit::NotNamed);
        }
        let seen = self.guests.get(vm)?;
        let chosen = self.intents.pending(vm)?.chosen_host(seen)?;
        let is_other = chosen != *host && !self.intents.is_drained(&chosen);
        is_other.then_some(Unfit::NotChosen(chosen))
    }

    fn is_drained(&self, host: &HostName) -> bool {
        self.intents.is_drained(host)
    }

    fn is_busy(&self, daemon: &Claimant) -> bool {
        is_starting(self.guests, daemon)
    }
}

/// Whether a daemon is to start a guest, and does not have its process yet.
pub(super) fn is_starting(guests: &BTreeMap<VmName, Seen>, daemon: &Claimant) -> bool {
    let mut starting = guests.values().filter_map(|seen| seen.starting.as_ref());
    starting.any(|it| it.daemon == *daemon && !it.taken)
}

impl Fleet {
    /// A service that has just started, with what operators want, and the journal up to now.
    #[must_use]
    pub fn resume<'a>(intents: Intents, journal: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut fleet = Self {
            intents,
            ..Self::default()
        };
        for entry in journal {
            let Subject::Vm(vm) = &entry.subject else {
                continue;
            };
            let seen = fleet.guests.entry(vm.clone()).or_default();
            match &entry.what {
                What::View { view, .. } => seen.told_view = *view,
                What::Failover { view, .. } => seen.told_failover = *view,
                What::State(state) => seen.told_state = Some(state.clone()),
                _ => {}
            }
        }
        // The journal does not go back to all of them.
        for vm in fleet.intents.guests.keys() {
            fleet.guests.entry(vm.clone()).or_default();
        }
        fleet
    }

    /// What operators want.
    #[must_use]
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// What has happened since this was asked last.
    pub fn take_news(&mut self) -> Vec<(Subject, What)> {
        std::mem::take(&mut self.news)
    }

    /// Whether [`Fleet::intents`] have changed by themselves since this was asked last, and are to be stored.
    /// Where that fails nothing is lost: the same is found out again.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// They could not be stored.
    pub fn not_stored(&mut self) {
        self.is_changed = true;
    }

    /// The hosts, as [`Views::hosts`] tells them.
    pub fn hosts<'a>(
        &'a self,
        after: Option<&Claimant>,
        records: Records<'a>,
    ) -> impl Iterator<Item = HostRecord> + 'a {
        self.views.hosts(after, self.wishes(records))
    }

    /// An interval of [`PING_INTERVAL`](crate::views::PING_INTERVAL) has passed.
    pub fn tick(&mut self, records: Records<'_>) {
        self.views.tick();
        for seen in self.guests.values_mut() {
            seen.intervals = seen.intervals.saturating_add(1);
            seen.leaving.tick();
            if let Some(starting) = &mut seen.starting {
                starting.age += 1;
            }
        }
        self.forget(records);
        for vm in self.guests.keys().cloned().collect::<Vec<_>>() {
            self.look(&vm, records);
        }
        self.watch_daemons();
        self.mind_drains(records);
    }

    /// A run of ftvm pings. The answer: what it is to do.
    ///
    /// # Errors
    /// See [`Views::ping`].
    pub fn ping(
        &mut self,
        ping: &Ping,
        from: IpAddr,
        records: Records<'_>,
    ) -> Result<Option<Order>, TooManyHosts> {
        let last = self.views.last(&ping.host).map(|(last, ..)| last.number);
        let is_new = last.is_none_or(|last| ping.number > last);
        let wishes = Wishes {
            intents: &self.intents,
            guests: &self.guests,
            records,
        };
        let proposal = self.views.ping(ping, from, wishes)?;
        if last.is_some_and(|last| ping.number < last) {
            return Ok(None);
        }
        match &ping.role {
            Role::Host(tended) => self.hear(ping, tended, is_new, records),
            role => {
                if let Some(vm) = role.vm() {
                    self.look(vm, records);
                }
            }
        }
        let own = self.order_for(ping, records);
        match (&own, &ping.role) {
            (Some(Order::Start { .. }), _) => self.views.ask(&ping.host),
            (Some(Order::Leave {}), Role::Backup { vm, .. }) => {
                self.note_leave(&ping.host, vm, false);
            }
            (Some(Order::HandOver { view } | Order::Die { view }), Role::Primary { vm, .. }) => {
                self.note_move(vm, *view, &ping.host.host());
                self.note_leave(&ping.host, vm, true);
            }
            _ => {}
        }
        Ok(own.or_else(|| proposal.map(|proposal| Order::Join(Box::new(proposal)))))
    }

    pub(super) fn wishes<'a>(&'a self, records: Records<'a>) -> Wishes<'a> {
        Wishes {
            intents: &self.intents,
            guests: &self.guests,
            records,
        }
    }

    /// Makes a change that an operator asked for and that was stored.
    pub(super) fn make(&mut self, order: OrderNumber, change: Change) {
        let vm = match &change {
            Change::Define { definition, .. } => Some(&definition.vm),
            Change::Want { vm, .. } => Some(vm),
            Change::Forget(_) | Change::Drain(..) | Change::Undrain(..) => None,
        };
        if let Some(vm) = vm {
            self.guests.entry(vm.clone()).or_default().intervals = 0;
        }
        self.intents.make(order, change);
    }

    /// Looks at a guest: its record may have moved, and what was wanted may be done.
    pub(super) fn look(&mut self, vm: &VmName, records: Records<'_>) {
        self.look_at_record(vm, records);
        self.note_copies(vm);
        self.mind_end(vm);
        self.mind_start(vm);
        self.mind_pending(vm, records);
        self.tell_state(vm, records);
    }

    fn look_at_record(&mut self, vm: &VmName, records: Records<'_>) {
        let record = records(vm);
        let seen = self.guests.entry(vm.clone()).or_default();
        if seen.record != record {
            seen.moved(record);
            for member in seen.members() {
                self.views.has_succeeded(&member.host(), vm);
            }
        }
        let record = &seen.record;
        if record.holder.is_some() && record.epoch != seen.told_view {
            seen.told_view = record.epoch;
            let primary = record.holder.clone().filter(|it| !it.is_stopped());
            let what = What::View {
                view: record.epoch,
                primary,
                backup: record.backup.clone(),
            };
            self.news.push((Subject::Vm(vm.clone()), what));
        }
        self.tell_failover(vm);
    }

    fn tell_failover(&mut self, vm: &VmName) {
        let Some(seen) = self.guests.get_mut(vm) else {
            return;
        };
        let Some((ping, condition)) = self.views.primary(vm, &seen.record) else {
            return;
        };
        let Some(went_live) = condition.went_live else {
            return;
        };
        if went_live.epoch > seen.told_failover {
            seen.told_failover = went_live.epoch;
            let moved = seen.moves.take();
            let moved = moved.filter(|(view, _)| view + 1 == went_live.epoch);
            let cause = seen.before.as_ref().map(|_| Cause::Loss {});
            let what = What::Failover {
                view: went_live.epoch,
                outage_ms: went_live.outage_ms,
                from: seen.before.as_ref().map(Claimant::host),
                to: ping.host.host(),
                cause: moved.map(|(_, cause)| cause).or(cause),
            };
            self.news.push((Subject::Vm(vm.clone()), what));
        }
    }

    /// A host's daemon pings.
    fn hear(&mut self, ping: &Ping, tended: &Tended, is_new: bool, records: Records<'_>) {
        let host = ping.host.host();
        if is_new && self.identify(&host, &ping.host) {
            let before = self.daemons.get(&host).map(|it| it.processes.keys());
            let ended = tended.ended.iter().map(|it| &it.vm);
            let told = tended.processes.keys().chain(ended);
            let vms: BTreeSet<VmName> = told.chain(before.into_iter().flatten()).cloned().collect();
            for vm in &vms {
                self.look_at_record(vm, records);
            }
            let Some(daemon) = self.daemons.get_mut(&host) else {
                return;
            };
            let known = daemon.ended;
            let before = daemon.hear(ping.number, tended);
            self.note_machine(&host, tended);
            for ended in tended.ended.iter().filter(|ended| ended.number > known) {
                self.hear_end(&host, ended, before.get(&ended.vm));
            }
            for (vm, seen) in &mut self.guests {
                let has_process = tended.processes.contains_key(vm);
                seen.hear(&host, has_process);
                if let Some(starting) = seen.starting.as_mut()
                    && starting.daemon == ping.host
                {
                    if starting.taken && !has_process {
                        seen.starting = None;
                        let reason = Text::cut("its process ended before it ran");
                        (self.views).pass_over(&ping.host, vm, &reason, START_PASSED_OVER);
                    } else {
                        if has_process && !starting.taken {
                            starting.age = 0;
                        }
                        starting.taken = has_process;
                    }
                }
            }
            for vm in &vms {
                self.look(vm, records);
            }
        }
        // What is to be started next may be started here.
        let waiting = self
            .guests
            .iter()
            .filter(|(_, seen)| seen.starting.is_none());
        for vm in waiting.map(|(vm, _)| vm.clone()).collect::<Vec<_>>() {
            self.look_at_record(&vm, records);
            self.mind_start(&vm);
        }
    }

    /// Keeps on which machine guests' runs are, for as long as these are there, or members.
    fn note_machine(&mut self, host: &HostName, tended: &Tended) {
        let Some(machine) = self.daemons.get(host).map(|daemon| &daemon.machine) else {
            return;
        };
        for (vm, kept) in &mut self.intents.guests {
            let run = tended.processes.get(vm).and_then(Option::as_ref);
            let run = run.filter(|run| run.host() == *host);
            let seen = self.guests.get(vm);
            let is_member = |it: &Claimant| {
                let mut members = seen.into_iter().flat_map(Seen::members);
                members.any(|member| member == it)
            };
            let before = kept.machines.len();
            (kept.machines).retain(|it, _| it.host() != *host || Some(it) == run || is_member(it));
            let mut is_changed = kept.machines.len() != before;
            if let Some(run) = run
                && !kept.machines.contains_key(run)
            {
                kept.machines.insert(run.clone(), machine.clone());
                is_changed = true;
            }
            self.is_changed |= is_changed;
        }
    }

    /// Finds out which run of a host's daemon pings: whether it is the present one.
    fn identify(&mut self, host: &HostName, claimant: &Claimant) -> bool {
        let daemon = self.daemons.entry(host.clone());
        let daemon = daemon.or_insert_with(|| Daemon::new(claimant.clone()));
        if daemon.claimant == *claimant {
            return true;
        }
        for seen in self.guests.values_mut() {
            seen.doubt(host);
        }
        if daemon.older.contains(claimant) {
            if !std::mem::replace(&mut daemon.is_ambiguous, true) {
                log::error!(
                    "{claimant} and {} are both the daemon of {host}: give each host its own name; \
                     neither is given guests",
                    daemon.claimant
                );
            }
            return false;
        }
        daemon.restarted(claimant.clone());
        true
    }

    /// A process of a guest has ended.
    fn hear_end(&mut self, host: &HostName, ended: &Ended, was: Option<&Option<Claimant>>) {
        let what = What::Ended {
            host: host.clone(),
            status: ended.status,
            reason: ended.reason.clone(),
        };
        self.news.push((Subject::Vm(ended.vm.clone()), what));
        let Some(seen) = self.guests.get_mut(&ended.vm) else {
            return;
        };
        let is_holders = seen.last_holder.as_ref().is_some_and(|holder| {
            let was_it = was.is_none_or(|was| was.as_ref().is_none_or(|was| was == holder));
            holder.host() == *host && was_it
        });
        if is_holders {
            seen.end = Some((ended.status, ended.reason.clone()));
        }
        let daemon = self.daemons.get(host).map(|daemon| &daemon.claimant);
        let of_this = |it: &mut Starting| Some(&it.daemon) == daemon;
        if let Some(starting) = seen.starting.take_if(of_this) {
            let (daemon, reason) = (&starting.daemon, &ended.reason);
            (self.views).pass_over(daemon, &ended.vm, reason, START_PASSED_OVER);
        }
    }

    /// A guest that has ended by itself is not started again.
    fn mind_end(&mut self, vm: &VmName) {
        let (Some(kept), Some(seen)) = (self.intents.guests.get_mut(vm), self.guests.get_mut(vm))
        else {
            return;
        };
        let Run::Wanted { since } = &mut kept.run else {
            return;
        };
        if *since > seen.record.epoch && seen.intervals >= STOPPING {
            // It was not told to, or did not hear it: when it stops now, then by itself.
            *since = seen.record.epoch;
            self.is_changed = true;
        }
        let has_stopped = seen.record.is_stopped() && seen.record.epoch > *since;
        if seen.record.is_stopped() && !has_stopped {
            // That was the end before this start.
            seen.end = None;
        }
        let reason = match &seen.end {
            Some((Some(0), said)) => Text::cut(&format!("it ended by itself: {said}")),
            Some((Some(5), said)) => Text::cut(&format!("it crashed: {said}")),
            // Its host could not go on, and gave it back.
            Some(_) if has_stopped => {
                let (_, said) = seen.end.take().expect("it is there");
                *since = seen.record.epoch;
                self.is_changed = true;
                let host = seen.last_holder.as_ref().map(Claimant::host);
                if let Some(daemon) = host.and_then(|host| self.daemons.get(&host)) {
                    (self.views).pass_over(&daemon.claimant, vm, &said, START_PASSED_OVER);
                }
                return;
            }
            // Its host has not said how: it may be about to.
            None if has_stopped && seen.intervals >= 2 * MISSED_PINGS => {
                Text::cut("it ended by itself, and its host did not say how")
            }
            _ => return,
        };
        let backup_may_run = seen.record.acknowledged && !seen.record.is_stopped();
        if backup_may_run && seen.intervals < 2 * MISSED_PINGS {
            return;
        }
        seen.end = None;
        kept.run = Run::Stopped {
            reason: Some(reason),
        };
        self.is_changed = true;
    }

    /// Forgets guests of which nobody says anything, and runs of daemons that are no more.
    fn forget(&mut self, records: Records<'_>) {
        let (views, intents) = (&self.views, &self.intents);
        self.guests.retain(|vm, _| {
            let pings = views.runs_of(vm).next().is_some();
            intents.guests.contains_key(vm) || pings || records(vm).holder.is_some()
        });
        for daemon in self.daemons.values_mut() {
            daemon.older.retain(|old| views.last(old).is_some());
        }
        // Of two hosts of one name the silent one is there all the same.
        self.daemons
            .retain(|_, daemon| daemon.is_ambiguous || views.last(&daemon.claimant).is_some());
    }

    /// Tells of hosts that come and go.
    fn watch_daemons(&mut self) {
        for (host, daemon) in &mut self.daemons {
            let is_live = self.views.is_live(&daemon.claimant);
            if is_live != daemon.told_live {
                daemon.told_live = is_live;
                let what = match is_live {
                    true => What::Live {},
                    false => What::Dead {},
                };
                self.news.push((Subject::Host(host.clone()), what));
            }
        }
    }
}
