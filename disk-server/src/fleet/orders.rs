//! What a run of ftvm is told to do.

use super::intents::{Kept, Pending};
use super::machine::{Fleet, Records};
use super::operation::Verb;
use super::order::Order;
use super::pending::{CARRIED_OUT, Running};
use super::seen::Seen;
use crate::arbiter::{Claimant, Record, VmName};
use crate::views::{Capabilities, Ping, Role};

impl Fleet {
    /// What the service wants of the run of ftvm that pings; a proposal is not among it.
    pub(super) fn order_for(&self, ping: &Ping, records: Records<'_>) -> Option<Order> {
        match &ping.role {
            Role::Host(_) => self.start_for(&ping.host),
            Role::Idle { .. } => None,
            Role::Primary { vm, epoch, .. } => {
                self.order_for_primary(&ping.host, vm, *epoch, records)
            }
            Role::Backup { vm, .. } => {
                let leaves = self.is_to_leave(&ping.host, vm, records);
                leaves.then_some(Order::Leave {})
            }
        }
    }

    fn start_for(&self, daemon: &Claimant) -> Option<Order> {
        let starting = self.guests.iter().find_map(|(vm, seen)| {
            let starting = seen.starting.as_ref()?;
            let is_given = starting.daemon == *daemon && !starting.taken;
            is_given.then_some((vm, starting))
        });
        let (vm, starting) = starting?;
        Some(Order::Start {
            vm: vm.clone(),
            epoch: starting.epoch,
        })
    }

    fn order_for_primary(
        &self,
        me: &Claimant,
        vm: &VmName,
        epoch: u64,
        records: Records<'_>,
    ) -> Option<Order> {
        let (kept, seen) = (self.intents.guests.get(vm)?, self.guests.get(vm)?);
        let record = &seen.record;
        if record.holder.as_ref() != Some(me) || record.epoch != epoch {
            return None;
        }
        if !kept.is_to_run() {
            return self.is_to_stop(me, vm, kept).then_some(Order::Stop {});
        }
        let running = self.running(vm, record)?;
        let hand_over = Order::HandOver { view: epoch };
        let Some(pending) = kept.pending.as_ref().filter(|_| kept.is_steered()) else {
            let leaves = self.is_to_leave_by_hand_over(vm, kept, (seen, Some(&running)), records);
            return leaves.then_some(hand_over);
        };
        let backup = running.backup.filter(|backup| self.views.is_live(backup))?;
        let is_due = seen.intervals < CARRIED_OUT;
        let of_that_view = pending.view == epoch && pending.primary.as_ref() == Some(me);
        match &pending.verb {
            Verb::Failover {} if of_that_view && is_due => Some(hand_over),
            Verb::TestFailover {} if of_that_view && is_due => Some(Order::Die { view: epoch }),
            Verb::MigratePrimary { to } if backup.host() == *to && is_due => Some(hand_over),
            _ => None,
        }
    }

    /// Whether the primary of a guest that is not to run ends it. One that was started by hand is left alone, unless
    /// that is what an operator asked for.
    fn is_to_stop(&self, me: &Claimant, vm: &VmName, kept: &Kept) -> bool {
        let asked = |pending: &Pending| pending.verb == Verb::Stop {};
        let is_tended = || {
            let daemon = self.daemon(&me.host());
            let process = daemon.and_then(|daemon| daemon.processes.get(vm));
            process.is_some_and(|process| process.as_ref().is_none_or(|process| process == me))
        };
        kept.pending.as_ref().is_some_and(asked) || is_tended()
    }

    /// Whether a guest's backup is to leave it: where operators do not want it, or want it elsewhere, and that fits.
    fn is_to_leave(&self, me: &Claimant, vm: &VmName, records: Records<'_>) -> bool {
        let (Some(kept), Some(seen)) = (self.intents.guests.get(vm), self.guests.get(vm)) else {
            return false;
        };
        // If its primary is lost, it is the guest.
        let is_needed = !self.has_just_pinged(vm, seen);
        if seen.record.backup.as_ref() != Some(me) || is_needed || !kept.is_to_run() {
            return false;
        }
        if kept.suspended.is_some() {
            return true;
        }
        let here = me.host();
        match &kept.pending {
            Some(Pending {
                verb: Verb::RestartBackup {},
                backup,
                ..
            }) => backup.as_ref() == Some(me),
            Some(Pending {
                verb: Verb::MigrateBackup { to } | Verb::MigratePrimary { to },
                ..
            }) => here != *to && self.unfit_as_backup(vm, to, records).is_none(),
            _ if kept.is_steered() => false,
            _ => {
                let is_due = seen.leaving.may_try();
                self.intents.is_drained(&here) && is_due && self.another_fits(vm, records)
            }
        }
    }

    /// Whether a guest's primary is there without any doubt: it has pinged within the last interval.
    pub(super) fn has_just_pinged(&self, vm: &VmName, seen: &Seen) -> bool {
        let Some(Running { condition, .. }) = self.running(vm, &seen.record) else {
            return false;
        };
        let holder = seen.record.holder.as_ref();
        let is_waiting = condition.phase == crate::views::Phase::Waiting;
        !is_waiting && holder.is_some_and(|holder| self.views.missed(holder) <= 1)
    }

    pub(super) fn another_fits(&self, vm: &VmName, records: Records<'_>) -> bool {
        let needs = self.needs(vm, &records(vm));
        needs.is_some_and(|needs| {
            let (fit, _) = self.views.candidates(vm, &needs, &self.wishes(records));
            (fit.iter()).any(|host| !self.intents.is_drained(&host.host()))
        })
    }

    /// What a guest that runs needs of another host.
    pub(super) fn needs(&self, vm: &VmName, record: &Record) -> Option<Capabilities> {
        let (ping, _) = self.views.primary(vm, record)?;
        if let Role::Primary {
            wants: Some(wanted),
            ..
        } = &ping.role
        {
            return Some(wanted.needs.clone());
        }
        let definition = self.intents.guests.get(vm).map(|kept| &kept.definition);
        Some(Capabilities {
            memory_mib: definition.map_or(0, |definition| definition.memory_mib),
            ..ping.carries.clone()
        })
    }
}
