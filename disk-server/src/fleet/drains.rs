//! Hosts that are to be empty: guests leave them, and are not without protection for longer than it takes to join.

use std::collections::BTreeMap;

use super::intents::{DrainedBy, Kept};
use super::journal::{Cause, Subject, What};
use super::machine::{Fleet, Records};
use super::pending::{CARRIED_OUT, Running};
use super::seen::Seen;
use super::starting::Life;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::Text;

/// A guest that could not leave a drained host is left alone for so many intervals, and each further time for twice
/// as many.
const FIRST_PAUSE: u32 = 30;

/// And for so many at most.
const LONGEST_PAUSE: u32 = 600;

/// What became of a guest whose backup was told to leave a drained host.
enum Left {
    /// Another host has its backup, or it is not to have one.
    Settled,
    /// No other host could have it: it is where it was.
    IsBack,
}

impl Fleet {
    /// Whether a guest's primary is to hand it over because its host is drained: where another host can have its
    /// backup then, or the host itself wants to be empty, as one that goes down does.
    pub(super) fn is_to_leave_by_hand_over(
        &self,
        vm: &VmName,
        kept: &Kept,
        (seen, running): (&Seen, Option<&Running<'_>>),
        records: Records<'_>,
    ) -> bool {
        let goes_down = self.intents.drained(DrainedBy::Itself);
        let goes_on = |running: &Running<'_>| {
            let backup = running.backup.filter(|it| self.views.is_live(it));
            let Some(to) = backup.map(Claimant::host) else {
                return false;
            };
            match goes_down.contains_key(&running.host) {
                // Also to one that an operator wants empty: that is up.
                true => !goes_down.contains_key(&to),
                false => {
                    self.intents.is_drained(&running.host)
                        && !self.intents.is_drained(&to)
                        && self.another_fits(vm, records)
                }
            }
        };
        let is_free = kept.is_to_run() && !kept.is_steered() && seen.leaving.may_try();
        is_free && running.is_some_and(goes_on)
    }

    /// The primary of a guest's view, on this host, is told to let its backup go on.
    pub(super) fn note_move(&mut self, vm: &VmName, view: u64, host: &HostName) {
        let kept = self.intents.guests.get(vm);
        let pending = kept.filter(|kept| kept.is_steered());
        let pending = pending.and_then(|kept| kept.pending.as_ref());
        let own = self.intents.drained(DrainedBy::Itself).get(host);
        let drained = own.or_else(|| self.intents.drains_of(host).next());
        let cause = match (pending, drained) {
            (Some(pending), _) => Cause::Order(pending.order),
            (None, Some(drained)) => Cause::Drain(drained.order),
            (None, None) => return,
        };
        if let Some(seen) = self.guests.get_mut(vm) {
            seen.moves = Some((view, cause));
        }
    }

    /// Copies of a guest are on hosts that operators want empty: each has to take the guest's backup back if nobody
    /// else does, whether its copy was told to leave or was lost.
    pub(super) fn note_copies(&mut self, vm: &VmName) {
        let wants_backup = self.intents.guests.get(vm).is_some_and(Kept::wants_backup);
        let (Some(seen), true) = (
            self.guests.get(vm),
            wants_backup && self.views.is_settled() && !self.intents.drained.is_empty(),
        ) else {
            return;
        };
        let holder = seen.record.holder.iter().filter(|it| !it.is_stopped());
        let copies = holder.chain(&seen.record.backup);
        let there = copies.filter(|copy| self.life(vm, seen, copy) != Life::Gone);
        for copy in there.cloned().collect::<Vec<_>>() {
            if let Some(drained) = self.intents.drained.get_mut(&copy.host())
                && !drained.owes.contains_key(vm)
            {
                drained.owes.insert(vm.clone(), copy);
                self.is_changed = true;
            }
        }
    }

    /// A copy of a guest is told to leave a host. One that goes down has to take the guest's backup back meanwhile if
    /// nobody else does; but not where that was its primary, which it hands over to be rid of the guest.
    pub(super) fn note_leave(&mut self, copy: &Claimant, vm: &VmName, was_primary: bool) {
        let wants_backup = self.intents.guests.get(vm).is_some_and(Kept::wants_backup);
        let goes_down = self.intents.drained_mut(DrainedBy::Itself);
        let Some(drained) = goes_down.get_mut(&copy.host()).filter(|_| wants_backup) else {
            return;
        };
        self.is_changed |= match was_primary {
            true => drained.owes.remove(vm).is_some(),
            false => drained.owes.insert(vm.clone(), copy.clone()).as_ref() != Some(copy),
        };
    }

    /// An interval has passed: what leaves drained hosts has, or has not.
    pub(super) fn mind_drains(&mut self, records: Records<'_>) {
        if !self.views.is_settled() {
            return;
        }
        for vm in self.guests.keys().cloned().collect::<Vec<_>>() {
            self.mind_hand_over(&vm, records);
        }
        let owed = self.intents.drains().flat_map(|(host, _, drained)| {
            let owes = drained.owes.iter();
            owes.filter_map(|(vm, left)| Some(((host.clone(), vm.clone()), self.left(left, vm)?)))
        });
        // Of one that two want empty once.
        for ((host, vm), left) in owed.collect::<BTreeMap<_, _>>() {
            for drained in self.intents.drains_of_mut(&host) {
                drained.owes.remove(&vm);
            }
            self.is_changed = true;
            match left {
                Left::IsBack => self.defer(&host, &vm, "no other host could have its backup"),
                Left::Settled => {
                    let seen = self.guests.get_mut(&vm);
                    seen.into_iter().for_each(|seen| seen.leaving.is_over());
                }
            }
        }
        self.tell_drained(records);
    }

    /// What became of a guest since this copy of it was told to leave.
    fn left(&self, told: &Claimant, vm: &VmName) -> Option<Left> {
        if !self.intents.guests.get(vm).is_some_and(Kept::wants_backup) {
            return Some(Left::Settled);
        }
        let running = self.running(vm, &self.guests.get(vm)?.record)?;
        if running.host == told.host() {
            return None;
        }
        match running.backup? {
            backup if backup.host() != told.host() => Some(Left::Settled),
            backup if backup != told => Some(Left::IsBack),
            _ => None,
        }
    }

    fn mind_hand_over(&mut self, vm: &VmName, records: Records<'_>) {
        let (Some(kept), Some(seen)) = (self.intents.guests.get(vm), self.guests.get(vm)) else {
            return;
        };
        if !self.concerns_drain(vm, seen) {
            let seen = self.guests.get_mut(vm);
            return seen.into_iter().for_each(|seen| seen.leaving.is_over());
        }
        let running = self.running(vm, &seen.record);
        let is_asked = self.is_to_leave_by_hand_over(vm, kept, (seen, running.as_ref()), records);
        let host = seen.last_holder.as_ref().map(Claimant::host);
        let Some((host, seen)) = host.zip(self.guests.get_mut(vm)) else {
            return;
        };
        let view = seen.record.epoch;
        let why = match seen.leaving.asked_in {
            Some(before) if before != view => "its backup was lost when it was to go on with it",
            _ if !is_asked => return,
            _ => {
                seen.leaving.asked_in = Some(view);
                seen.leaving.asked += 1;
                if seen.leaving.asked <= CARRIED_OUT {
                    return;
                }
                "its primary did not hand it over"
            }
        };
        self.defer(&host, vm, why);
    }

    fn concerns_drain(&self, vm: &VmName, seen: &Seen) -> bool {
        let record = &seen.record;
        let has_member = |host: &HostName| {
            let mut members = record.holder.iter().chain(&record.backup);
            members.any(|member| member.host() == *host)
        };
        let mut drained = self.intents.drains();
        drained.any(|(host, _, it)| it.owes.contains_key(vm) || has_member(host))
    }

    /// A guest has not left a drained host: that is tried again later.
    fn defer(&mut self, host: &HostName, vm: &VmName, why: &str) {
        let drained = self.intents.drains_of(host).next();
        let (Some(drained), Some(seen)) = (drained, self.guests.get_mut(vm)) else {
            return;
        };
        let pause = seen.leaving.has_failed(FIRST_PAUSE, LONGEST_PAUSE);
        let why = format!("{why}: it leaves {host} at the earliest in {pause} s");
        let what = What::Deferred {
            order: drained.order,
            why: Text::cut(&why),
        };
        self.news.push((Subject::Vm(vm.clone()), what));
    }

    /// A host that was to be empty may be.
    fn tell_drained(&mut self, records: Records<'_>) {
        let drains = self.intents.drains();
        let waited_for = drains.filter(|(.., it)| !it.done && it.owes.is_empty());
        let done = waited_for.filter_map(|(host, by, _)| {
            let how = match by {
                _ if self.is_empty(host) => "it is empty",
                DrainedBy::Itself if self.has_what_it_may_lose(host, records) => {
                    "it has nothing but backups that no other host can have"
                }
                _ => return None,
            };
            Some((host.clone(), by, how))
        });
        for (host, by, how) in done.collect::<Vec<_>>() {
            let Some(drained) = self.intents.drained_mut(by).get_mut(&host) else {
                continue;
            };
            drained.done = true;
            self.is_changed = true;
            let what = What::Done {
                order: drained.order,
                how: Text::cut(how),
            };
            self.news.push((Subject::Host(host), what));
        }
    }

    /// Whether a host has only backups, of guests that run on others, and nobody else could have them. One that goes
    /// down takes them along: to wait for another host would keep it up for nothing.
    fn has_what_it_may_lose(&self, host: &HostName, records: Records<'_>) -> bool {
        let may_lose = |vm: &VmName, seen: &Seen| {
            let backup = seen.record.backup.as_ref();
            backup.is_some_and(|backup| backup.host() == *host)
                && self.has_just_pinged(vm, seen)
                && !self.another_fits(vm, records)
        };
        self.guests_on(host)
            .all(|vm| self.guests.get(vm).is_some_and(|seen| may_lose(vm, seen)))
    }

    /// Whether a host has no process of a guest, and no guest may run there.
    fn is_empty(&self, host: &HostName) -> bool {
        self.guests_on(host).next().is_none()
    }

    /// The guests of which a host has a process, and those that may run there.
    fn guests_on<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a VmName> {
        let daemon = self.daemons.get(host);
        let processes = daemon
            .into_iter()
            .flat_map(|daemon| daemon.processes.keys());
        let is_there = move |vm: &VmName, seen: &Seen| {
            let members = self.may_run(vm, seen);
            members.iter().any(|(member, _)| member.host() == *host)
        };
        let guests = self.intents.guests.keys();
        processes.chain(guests.filter(move |vm| {
            let seen = self.guests.get(*vm);
            seen.is_some_and(|seen| is_there(vm, seen))
        }))
    }
}
