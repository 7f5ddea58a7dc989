//! What operators want: all that the fleet keeps durably.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, NamedHosts};
use super::operation::Verb;
use super::order::OrderNumber;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::Text;

/// The most guests that are kept.
pub const MAX_GUESTS: usize = 1000;

/// The most hosts that are drained at a time.
pub const MAX_DRAINED: usize = 1000;

/// What operators want.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intents {
    /// The number of the last order.
    pub(super) orders: OrderNumber,
    /// The guests that are kept.
    pub(super) guests: BTreeMap<VmName, Kept>,
    /// The hosts that operators want empty.
    pub(super) drained: BTreeMap<HostName, Drained>,
    /// The hosts that empty themselves, until they are back. Version 1 had none.
    #[serde(default)]
    pub(super) drained_by_itself: BTreeMap<HostName, Drained>,
}

/// A guest that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) definition: Definition,
    pub(super) run: Run,
    /// Who wants it without a backup.
    pub(super) suspended: Option<Text>,
    pub(super) pending: Option<Pending>,
    /// On which machine these runs of it are or were, as its daemon had them. What another machine of that host's
    /// name says of them means nothing.
    pub(super) machines: BTreeMap<Claimant, Text>,
}

/// Whether a guest is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Run {
    /// It is not.
    Stopped {
        /// Why, if it was not an operator who stopped it.
        reason: Option<Text>,
    },
    /// It is.
    Wanted {
        /// A record that says that it has stopped is of the time before, up to this epoch. That is the next one
        /// where it was to stop, and still ran.
        since: u64,
    },
}

/// What an operator asked for, and is not done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub(super) order: OrderNumber,
    pub(super) verb: Verb,
    /// The guest's view when that was asked for.
    pub(super) view: u64,
    /// Who was primary then.
    pub(super) primary: Option<Claimant>,
    /// Who was backup then.
    pub(super) backup: Option<Claimant>,
}

/// Who wants a host empty. Each wish has an order of its own, and the host has no guests while there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainedBy {
    /// An operator, who alone takes that back.
    Operator,
    /// The host, before it goes down. It takes back what it wanted itself, and an operator does.
    Itself,
}

/// A host that is to be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drained {
    pub(super) order: OrderNumber,
    /// It was empty, as far as it is to be.
    pub(super) done: bool,
    /// The guests that it still owes a backup: these, which were on it, have no copy elsewhere that has taken their
    /// place since. An operator's drain owes for all that were there, a host's own for those that it told to leave.
    pub(super) owes: BTreeMap<VmName, Claimant>,
}

/// A change of what is wanted, which counts once it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A guest is kept, or described otherwise.
    Define {
        definition: Box<Definition>,
        /// Whether it is to run, if it was not kept before.
        run: Run,
    },
    /// A guest is wanted otherwise. What is not here stays as it is by then.
    Want {
        vm: VmName,
        pending: Box<Pending>,
        run: Option<Run>,
        suspended: Option<Option<Text>>,
    },
    /// It is kept no longer.
    Forget(VmName),
    /// A host is to be empty.
    Drain(HostName, DrainedBy),
    /// It need not be any more.
    Undrain(HostName, DrainedBy),
}

impl DrainedBy {
    const ALL: [Self; 2] = [Self::Operator, Self::Itself];

    /// Whether these may take back what those want.
    pub(super) fn lifts(self, wanted_by: Self) -> bool {
        self == Self::Operator || wanted_by == Self::Itself
    }
}

impl Kept {
    fn new(definition: Definition, run: Run) -> Self {
        Self {
            definition,
            run,
            suspended: None,
            pending: None,
            machines: BTreeMap::new(),
        }
    }

    pub(super) fn is_to_run(&self) -> bool {
        matches!(self.run, Run::Wanted { .. })
    }

    pub(super) fn wants_backup(&self) -> bool {
        self.is_to_run() && self.suspended.is_none()
    }

    /// Whether an order about where its copies are is not done yet, so that nothing else moves them meanwhile.
    pub(super) fn is_steered(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| {
            matches!(
                pending.verb,
                Verb::Failover {}
                    | Verb::TestFailover {}
                    | Verb::RestartBackup {}
                    | Verb::MigrateBackup { .. }
                    | Verb::MigratePrimary { .. }
            )
        })
    }
}

impl Intents {
    /// Makes a change that an order of this number asked for.
    pub(super) fn make(&mut self, order: OrderNumber, change: Change) {
        self.orders = self.orders.max(order);
        match change {
            Change::Define { definition, run } => {
                let vm = definition.vm.clone();
                if let Some(kept) = self.guests.get_mut(&vm) {
                    kept.definition = *definition;
                } else {
                    self.guests.insert(vm, Kept::new(*definition, run));
                }
            }
            Change::Want {
                vm,
                pending,
                run,
                suspended,
            } => {
                if let Some(kept) = self.guests.get_mut(&vm) {
                    kept.run = run.unwrap_or_else(|| kept.run.clone());
                    kept.suspended = suspended.unwrap_or_else(|| kept.suspended.clone());
                    kept.pending = Some(*pending);
                }
            }
            Change::Forget(vm) => drop(self.guests.remove(&vm)),
            Change::Drain(host, by) => {
                // What it told to leave by itself is owed when its own drain has ended, too.
                let own = self.drained_by_itself.get(&host);
                let owed = own.map(|own| own.owes.clone()).unwrap_or_default();
                let drained = self.drained_mut(by).entry(host).or_default();
                drained.order = order;
                drained.done = false;
                drained.owes.extend(owed);
            }
            Change::Undrain(host, by) => {
                for wanted_by in DrainedBy::ALL {
                    if by.lifts(wanted_by) {
                        self.drained_mut(wanted_by).remove(&host);
                    }
                }
            }
        }
    }

    /// The hosts that these want empty.
    pub(super) fn drained(&self, by: DrainedBy) -> &BTreeMap<HostName, Drained> {
        match by {
            DrainedBy::Operator => &self.drained,
            DrainedBy::Itself => &self.drained_by_itself,
        }
    }

    pub(super) fn drained_mut(&mut self, by: DrainedBy) -> &mut BTreeMap<HostName, Drained> {
        match by {
            DrainedBy::Operator => &mut self.drained,
            DrainedBy::Itself => &mut self.drained_by_itself,
        }
    }

    /// All that are to be empty; one of which an operator and the host itself want that is there twice.
    pub(super) fn drains(&self) -> impl Iterator<Item = (&HostName, DrainedBy, &Drained)> {
        DrainedBy::ALL
            .into_iter()
            .flat_map(move |by| (self.drained(by).iter()).map(move |(host, it)| (host, by, it)))
    }

    /// What is wanted of this host.
    pub(super) fn drains_of(&self, host: &HostName) -> impl Iterator<Item = &Drained> {
        [&self.drained, &self.drained_by_itself]
            .into_iter()
            .filter_map(move |drained| drained.get(host))
    }

    /// The same, to change it.
    pub(super) fn drains_of_mut(&mut self, host: &HostName) -> impl Iterator<Item = &mut Drained> {
        [&mut self.drained, &mut self.drained_by_itself]
            .into_iter()
            .filter_map(move |drained| drained.get_mut(host))
    }

    pub(super) fn is_drained(&self, host: &HostName) -> bool {
        self.drains_of(host).next().is_some()
    }

    /// Whether a host is to be empty, and is not to have this guest's backup back until another host has it. One that
    /// goes down has back what it told to leave alone, whatever an operator's drain owes.
    pub(super) fn is_closed(&self, host: &HostName, vm: &VmName) -> bool {
        let own = self.drained_by_itself.get(host);
        let drained = own.or_else(|| self.drained.get(host));
        drained.is_some_and(|drained| !drained.owes.contains_key(vm))
    }

    /// Which hosts may run the guests that are kept.
    pub(super) fn named(&self) -> BTreeMap<VmName, NamedHosts> {
        let guests = self.guests.iter();
        let named = guests.map(|(vm, kept)| (vm.clone(), kept.definition.hosts.clone()));
        named.collect()
    }

    /// Whether a host is one of those that a guest asks for. One that is not kept asks for none: whether a host may
    /// run that is the [policy](crate::policy)'s to say.
    pub(super) fn takes(&self, host: &HostName, vm: &VmName) -> bool {
        let kept = self.guests.get(vm);
        kept.is_none_or(|kept| kept.definition.hosts.names(host))
    }

    /// Who wants a guest without a backup.
    pub(super) fn suspended(&self, vm: &VmName) -> Option<&Text> {
        self.guests.get(vm)?.suspended.as_ref()
    }

    pub(super) fn pending(&self, vm: &VmName) -> Option<&Pending> {
        self.guests.get(vm)?.pending.as_ref()
    }
}
