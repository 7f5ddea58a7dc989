//! Whether what an operator asks for is granted, and what it changes.

use super::definition::Definition;
use super::intents::{Change, DrainedBy, Intents, Kept, MAX_DRAINED, MAX_GUESTS, Pending, Run};
use super::journal::{Subject, What};
use super::machine::{Fleet, Records};
use super::operation::{HostVerb, Operation, Verb};
use super::order::OrderNumber;
use super::refused::Refused;
use super::status::State;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::Text;

/// What an operator has asked for, granted, and not yet stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its number.
    pub order: OrderNumber,
    /// Of whom.
    pub subject: Subject,
    /// In words.
    pub what: Text,
    /// Who asked.
    pub by: Text,
    change: Change,
}

/// What is done with an operator's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// It is to be stored, and then made.
    New(Box<Plan>),
    /// It was asked for before, and is being done: to ask twice is to want the same.
    Already(OrderNumber),
}

impl Fleet {
    /// Whether something is granted that changes what is wanted.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn plan(&self, operation: Operation, records: Records<'_>) -> Result<Planned, Refused> {
        let planned = match operation {
            Operation::Define { definition, by } => self.plan_definition(*definition, by, records),
            Operation::Undefine { vm, by } => {
                self.kept(&vm)?;
                self.must_be_stopped(&vm, records)?;
                let what = Text::cut("undefine");
                let change = Change::Forget(vm.clone());
                Ok(self.planned(Subject::Vm(vm), (what, by), change))
            }
            Operation::Guest { vm, verb, by } => self.plan_verb(&vm, verb, by, records),
            Operation::Host { host, verb, by } => {
                self.plan_for_host(host, verb, (DrainedBy::Operator, by))
            }
            Operation::OwnHost { host, verb } => {
                let by = Text::cut(host.as_str());
                self.plan_for_host(host, verb, (DrainedBy::Itself, by))
            }
            Operation::Definition { .. }
            | Operation::Status { .. }
            | Operation::List { .. }
            | Operation::History { .. } => Err(Refused::NoChange),
        };
        planned.map_err(|refused| self.or_too_early(refused))
    }

    /// What operators will want once this plan is made: to be stored before.
    #[must_use]
    pub fn intents_with(&self, plan: &Plan) -> Intents {
        let mut intents = self.intents.clone();
        intents.make(plan.order, plan.change.clone());
        intents
    }

    /// Makes what was planned, which is stored.
    pub fn carry_out(&mut self, plan: &Plan, records: Records<'_>) {
        let subject = &plan.subject;
        let replaced = self.replaced_by(&plan.change);
        let order = plan.order;
        let by = plan.by.clone();
        let what = plan.what.clone();
        (self.news).push((subject.clone(), What::Ordered { by, what, order }));
        for replaced in replaced {
            let why = Text::cut(&format!("replaced by order {order} of {}", plan.by));
            let what = What::Failed {
                order: replaced,
                why,
            };
            self.news.push((subject.clone(), what));
        }
        let noted = match &plan.change {
            Change::Undrain(host, _) if !self.intents.is_drained(host) => "it was not drained",
            Change::Undrain(host, DrainedBy::Itself) if self.intents.drained.contains_key(host) => {
                "an operator wants it empty: it stays so"
            }
            _ => "noted",
        };
        self.make(order, plan.change.clone());
        if let Change::Forget(vm) = &plan.change {
            self.views.forget(vm);
        }
        let is_done = match &plan.change {
            Change::Define { .. } | Change::Forget(_) | Change::Undrain(..) => true,
            Change::Want { .. } | Change::Drain(..) => false,
        };
        if is_done {
            let how = Text::cut(noted);
            self.news.push((subject.clone(), What::Done { order, how }));
        }
        let looked_at: Vec<VmName> = match subject {
            Subject::Vm(vm) => vec![vm.clone()],
            // It owes what is there now.
            Subject::Host(_) => self.intents.guests.keys().cloned().collect(),
        };
        looked_at.iter().for_each(|vm| self.look(vm, records));
    }

    /// The orders that are not done, and are not to be any more.
    fn replaced_by(&self, change: &Change) -> Vec<OrderNumber> {
        match change {
            // What was asked of it goes on. A drain that is not done is not asked for anew.
            Change::Define { .. } | Change::Drain(..) => Vec::new(),
            Change::Want { vm, .. } | Change::Forget(vm) => {
                let pending = self.intents.pending(vm).map(|pending| pending.order);
                pending.into_iter().collect()
            }
            Change::Undrain(host, by) => {
                let ended = (self.intents.drains()).filter(|(of, wanted_by, drained)| {
                    *of == host && by.lifts(*wanted_by) && !drained.done
                });
                ended.map(|(.., drained)| drained.order).collect()
            }
        }
    }

    /// A guest's definition.
    ///
    /// # Errors
    /// It has none.
    pub fn definition(&self, vm: &VmName) -> Result<Definition, Refused> {
        Ok(self.kept(vm)?.definition.clone())
    }

    /// The names of the guests that [there are](Self::is_there), behind `after`.
    pub fn guests<'a>(&'a self, after: Option<&VmName>) -> impl Iterator<Item = &'a VmName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let guests = self.guests.range::<VmName, _>((from, Unbounded));
        guests.map(|(vm, _)| vm).filter(|vm| self.is_there(vm))
    }

    fn planned(&self, subject: Subject, (what, by): (Text, Text), change: Change) -> Planned {
        Planned::New(Box::new(Plan {
            order: self.next_order(),
            subject,
            what,
            by,
            change,
        }))
    }

    fn next_order(&self) -> OrderNumber {
        self.intents.orders + 1
    }

    fn kept(&self, vm: &VmName) -> Result<&Kept, Refused> {
        let kept = self.intents.guests.get(vm);
        kept.ok_or_else(|| Refused::NotDefined(vm.clone()))
    }

    fn must_be_stopped(&self, vm: &VmName, records: Records<'_>) -> Result<(), Refused> {
        let state = self.state_of(vm, records);
        let is_to_run = self.kept(vm).is_ok_and(Kept::is_to_run);
        match (&state, is_to_run) {
            (State::Stopped { .. }, false) => Ok(()),
            _ => Err(Refused::Runs {
                vm: vm.clone(),
                state,
            }),
        }
    }

    fn plan_definition(
        &self,
        definition: Definition,
        by: Text,
        records: Records<'_>,
    ) -> Result<Planned, Refused> {
        definition.check()?;
        let vm = definition.vm.clone();
        let kept = self.intents.guests.get(&vm);
        let fields = kept.map(|kept| kept.definition.changed_at_a_start(&definition));
        if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
            (self.must_be_stopped(&vm, records)).map_err(|refused| match refused {
                Refused::Runs { vm, state } => Refused::ChangesAtAStart { vm, state, fields },
                other => other,
            })?;
        }
        let record = records(&vm);
        let holder = record.holder.iter().filter(|it| !it.is_stopped());
        let seen = self.guests.get(&vm);
        let starting = seen.and_then(|seen| seen.starting.as_ref());
        let members = holder.chain(&record.backup);
        let mut members = (members.chain(starting.map(|it| &it.daemon))).map(Claimant::host);
        if let Some(host) = members.find(|host| !definition.hosts.names(host)) {
            return Err(Refused::LeavesOut { vm, host });
        }
        if kept.is_none() && self.intents.guests.len() >= MAX_GUESTS {
            return Err(Refused::TooManyGuests);
        }
        let others = self
            .intents
            .guests
            .iter()
            .filter(|(other, _)| **other != vm);
        for (other, kept) in others {
            let theirs = &kept.definition;
            if theirs.mac.eq_ignore_ascii_case(&definition.mac) {
                return Err(Refused::SameMac {
                    vm,
                    other: other.clone(),
                    mac: definition.mac,
                });
            }
            if let Some(disk) = &definition.disk
                && theirs.disk.as_ref() == Some(disk)
            {
                return Err(Refused::SameDisk {
                    vm,
                    other: other.clone(),
                    disk: disk.clone(),
                });
            }
        }
        let what = Text::cut("define");
        let change = Change::Define {
            definition: Box::new(definition),
            run: self.run_of_undefined(&vm, records),
        };
        Ok(self.planned(Subject::Vm(vm), (what, by), change))
    }

    /// A guest that may run when it is defined is to run: what was known of it may have been lost, and nobody may
    /// have pinged since.
    fn run_of_undefined(&self, vm: &VmName, records: Records<'_>) -> Run {
        let record = records(vm);
        let since = record.epoch;
        let mut seen = self.guests.get(vm).cloned().unwrap_or_default();
        if seen.record != record {
            seen.moved(record);
        }
        match self.may_run(vm, &seen).is_empty() {
            true => Run::Stopped { reason: None },
            false => Run::Wanted { since },
        }
    }

    fn plan_verb(
        &self,
        vm: &VmName,
        verb: Verb,
        by: Text,
        records: Records<'_>,
    ) -> Result<Planned, Refused> {
        let kept = self.kept(vm)?;
        if let Some(pending) = &kept.pending
            && pending.verb == verb
        {
            return Ok(Planned::Already(pending.order));
        }
        self.must_be_possible(vm, kept, &verb, records)?;
        let record = records(vm);
        let (mut run, mut suspended) = (None, None);
        match &verb {
            Verb::Start { .. } if !kept.is_to_run() => {
                // Its primary may have been told to stop, and be about to.
                let runs = record.holder.as_ref().is_some_and(|it| !it.is_stopped());
                let since = record.epoch + u64::from(runs);
                run = Some(Run::Wanted { since });
            }
            Verb::Stop {} if kept.is_to_run() => run = Some(Run::Stopped { reason: None }),
            Verb::SuspendProtection {} => suspended = Some(Some(by.clone())),
            Verb::ResumeProtection {} => suspended = Some(None),
            _ => {}
        }
        let what = Text::cut(&verb.to_string());
        let pending = Pending {
            order: self.next_order(),
            verb,
            view: record.epoch,
            primary: record.holder.filter(|it| !it.is_stopped()),
            backup: record.backup,
        };
        let change = Change::Want {
            vm: vm.clone(),
            pending: Box::new(pending),
            run,
            suspended,
        };
        Ok(self.planned(Subject::Vm(vm.clone()), (what, by), change))
    }

    fn must_be_possible(
        &self,
        vm: &VmName,
        kept: &Kept,
        verb: &Verb,
        records: Records<'_>,
    ) -> Result<(), Refused> {
        let record = records(vm);
        let state = || self.state_of(vm, records);
        let to = match verb {
            Verb::Start { .. }
            | Verb::Stop {}
            | Verb::SuspendProtection {}
            | Verb::ResumeProtection {} => return Ok(()),
            Verb::Failover {}
            | Verb::TestFailover {}
            | Verb::RestartBackup {}
            | Verb::MigrateBackup { .. }
            | Verb::MigratePrimary { .. }
                if !kept.is_to_run() =>
            {
                let (vm, state) = (vm.clone(), state());
                return Err(Refused::DoesNotRun { vm, state });
            }
            Verb::Failover {} | Verb::TestFailover {} => {
                let running = self.running(vm, &record);
                return match running.is_some_and(|running| running.backup.is_some()) {
                    true => Ok(()),
                    false => Err(Refused::NotProtected {
                        vm: vm.clone(),
                        state: state(),
                    }),
                };
            }
            Verb::RestartBackup {} => {
                let has_one = self.running(vm, &record).is_some() && record.backup.is_some();
                return match has_one {
                    true => Ok(()),
                    false => Err(Refused::NoBackup {
                        vm: vm.clone(),
                        state: state(),
                    }),
                };
            }
            Verb::MigrateBackup { to } | Verb::MigratePrimary { to } => to,
        };
        let Some(running) = self.running(vm, &record) else {
            return Err(Refused::DoesNotRun {
                vm: vm.clone(),
                state: state(),
            });
        };
        if running.host == *to {
            return match verb {
                Verb::MigratePrimary { .. } => Ok(()),
                _ => Err(Refused::RunsThere {
                    vm: vm.clone(),
                    host: to.clone(),
                }),
            };
        }
        if let Some(by) = &kept.suspended {
            return Err(Refused::Suspended {
                vm: vm.clone(),
                by: by.clone(),
            });
        }
        if running.backup.is_some_and(|backup| backup.host() == *to) {
            return Ok(());
        }
        self.must_be_known(to)?;
        match self.unfit_as_backup(vm, to, records) {
            None => Ok(()),
            Some(unfit) => Err(Refused::Unfit {
                vm: vm.clone(),
                host: to.clone(),
                unfit,
            }),
        }
    }

    /// What was not heard yet since the service's start is not known to be missing.
    fn or_too_early(&self, refused: Refused) -> Refused {
        let was_not_heard = match &refused {
            Refused::DoesNotRun { state, .. } => !matches!(state, State::Stopped { .. }),
            Refused::NotProtected { .. }
            | Refused::NoBackup { .. }
            | Refused::NoSuchHost { .. }
            | Refused::Unfit { .. } => true,
            _ => false,
        };
        match was_not_heard && !self.views.is_settled() {
            true => Refused::TooEarly,
            false => refused,
        }
    }

    fn must_be_known(&self, host: &HostName) -> Result<(), Refused> {
        match self.daemons.contains_key(host) {
            true => Ok(()),
            false => Err(Refused::NoSuchHost {
                host: host.clone(),
                known: self.daemons.keys().take(MAX_KNOWN).cloned().collect(),
            }),
        }
    }

    fn plan_for_host(
        &self,
        host: HostName,
        verb: HostVerb,
        (wanted_by, by): (DrainedBy, Text),
    ) -> Result<Planned, Refused> {
        let all = self.intents.drained(wanted_by);
        let drained = all.get(&host);
        let change = match (verb, drained) {
            (HostVerb::Drain, Some(drained)) if !drained.done => {
                return Ok(Planned::Already(drained.order));
            }
            // One that was empty may not be any more: it is looked at again.
            (HostVerb::Drain, drained) => {
                if drained.is_none() {
                    // A host that asks by itself is there, if its daemon was heard since the service's start or not.
                    if wanted_by == DrainedBy::Operator {
                        self.must_be_known(&host)?;
                    }
                    if all.len() >= MAX_DRAINED {
                        return Err(Refused::TooManyDrained);
                    }
                }
                Change::Drain(host.clone(), wanted_by)
            }
            // Of a host that is gone, too, or that has not come yet.
            (HostVerb::Undrain, _) => Change::Undrain(host.clone(), wanted_by),
        };
        let what = Text::cut(&verb.to_string());
        Ok(self.planned(Subject::Host(host), (what, by), change))
    }
}

/// So many hosts are told to one who asked for one that there is not.
const MAX_KNOWN: usize = 20;
