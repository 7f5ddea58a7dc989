//! The fleet as the server has it: its decisions, its state, and its journal.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::definition::NamedHosts;
use super::intents::Intents;
use super::journal::Entry;
use super::journal_file::{Journal, Turns};
use super::machine::{Fleet, Records};
use super::operation::{Answer, Operation};
use super::order::{Order, OrderNumber};
use super::plan::Planned;
use super::refused::Refused;
use super::status::VmStatus;
use super::store::IntentStore;
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::logging::Limited;
use crate::policy::Definitions;
use crate::state::{OpenStateError, ReplaceError, StateDirectory};
use crate::views::{HostRecord, Ping, TooManyHosts};

/// So many guests are looked at for a page of them, which holds fewer.
const LOOKED_AT: usize = 64;

/// What the service has the arbiter's records from.
pub trait Arbitrated {
    /// The record of a guest.
    fn record(&self, vm: &VmName) -> Record;
}

/// Why an operator is not answered.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// It is not granted.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is not stored for certain, and is not carried out.
    #[error("cannot store what operators want")]
    Storage(#[source] ReplaceError),
}

/// The fleet, for threads.
#[derive(Debug)]
pub struct FleetService {
    /// One change by an operator at a time, from what it bases on to the disk. Taken before the others.
    store: Mutex<IntentStore>,
    fleet: Mutex<Fleet>,
    /// Taken last.
    journal: Mutex<Journal>,
    /// Who may run which guest, as in the fleet: apart, because every claim asks for it, and is not to wait for what
    /// else is done with the fleet.
    named: RwLock<BTreeMap<VmName, NamedHosts>>,
    /// How often that has changed.
    named_anew: AtomicU64,
}

impl Definitions for FleetService {
    fn names(&self, vm: &VmName, host: &HostName) -> Option<bool> {
        Some(self.named.read().get(vm)?.names(host))
    }

    fn generation(&self) -> u64 {
        self.named_anew.load(Ordering::Acquire)
    }
}

impl FleetService {
    /// Opens its files in `directory`, where they are made if they are missing.
    ///
    /// # Errors
    /// See [`OpenStateError`].
    pub fn open(directory: &Arc<StateDirectory>) -> Result<Self, OpenStateError> {
        let (store, intents) = IntentStore::open(directory)?;
        let journal = Journal::open(directory)?;
        let named = RwLock::new(intents.named());
        let fleet = Fleet::resume(intents, journal.entries());
        Ok(Self {
            named,
            named_anew: AtomicU64::new(0),
            store: Mutex::new(store),
            fleet: Mutex::new(fleet),
            journal: Mutex::new(journal),
        })
    }

    /// An interval of [`PING_INTERVAL`](crate::views::PING_INTERVAL) has passed.
    pub fn tick(&self, arbiter: &dyn Arbitrated) {
        let changed: Option<Intents> = {
            let mut fleet = self.fleet.lock();
            fleet.tick(&|vm| arbiter.record(vm));
            self.take_news(&mut fleet);
            fleet.take_changed().then(|| fleet.intents().clone())
        };
        if changed.is_some() {
            self.store_changes();
        }
        // The lock is free while the disk works: pings with news take it.
        let upkeep = self.journal.lock().upkeep();
        if let Some(upkeep) = upkeep {
            let maintained = upkeep.carry_out();
            self.journal.lock().maintained(maintained);
        }
    }

    /// Stores what has changed by itself. Where that fails nothing is lost but for a repetition after a restart.
    fn store_changes(&self) {
        let mut store = self.store.lock();
        // An operator's change may have come between.
        let intents = self.fleet.lock().intents().clone();
        if let Err(error) = store.store(&intents) {
            static FAILS: Limited = Limited::new();
            if let Some(left_out) = FAILS.let_through() {
                let error = anyhow::Error::from(OperateError::Storage(error));
                log::error!("{error:#}; it is tried again{left_out}");
            }
            self.fleet.lock().not_stored();
        }
    }

    /// A run of ftvm pings. The answer: what it is to do.
    ///
    /// # Errors
    /// See [`Fleet::ping`].
    pub fn ping(
        &self,
        ping: &Ping,
        from: IpAddr,
        arbiter: &dyn Arbitrated,
    ) -> Result<Option<Order>, TooManyHosts> {
        let mut fleet = self.fleet.lock();
        let order = fleet.ping(ping, from, &|vm| arbiter.record(vm));
        self.take_news(&mut fleet);
        order
    }

    /// Calls `take` with the hosts behind `after`.
    pub fn with_hosts<T>(
        &self,
        after: Option<&Claimant>,
        arbiter: &dyn Arbitrated,
        take: impl FnOnce(&mut dyn Iterator<Item = HostRecord>) -> T,
    ) -> T {
        let fleet = self.fleet.lock();
        let records: Records<'_> = &|vm| arbiter.record(vm);
        take(&mut fleet.hosts(after, records))
    }

    /// Does what an operator asks. What is accepted is on stable storage.
    ///
    /// # Errors
    /// See [`OperateError`].
    pub fn operate(
        &self,
        operation: Operation,
        arbiter: &dyn Arbitrated,
    ) -> Result<Answer, OperateError> {
        let records: Records<'_> = &|vm| arbiter.record(vm);
        Ok(match operation {
            Operation::Definition { vm } => {
                Answer::Definition(Box::new(self.fleet.lock().definition(&vm)?))
            }
            Operation::Status { vm } => {
                let mut status = {
                    let fleet = self.fleet.lock();
                    if !fleet.is_there(&vm) {
                        return Err(Refused::NotDefined(vm).into());
                    }
                    fleet.status(&vm, records)
                };
                self.add_what_happened(std::slice::from_mut(&mut status));
                Answer::Status(Box::new(status))
            }
            Operation::List { after } => {
                let (vms, more) = self.list(after.as_ref(), arbiter);
                Answer::Guests { vms, more }
            }
            Operation::History { vm, before } => {
                let journal = self.journal.lock();
                let entries = journal.history(vm.as_ref(), before).cloned();
                let (entries, more) = crate::arbiter::protocol::page::<Entry>(entries);
                Answer::History { entries, more }
            }
            change => {
                let order = self.change(change, records)?;
                Answer::Accepted { order }
            }
        })
    }

    fn change(
        &self,
        operation: Operation,
        records: Records<'_>,
    ) -> Result<OrderNumber, OperateError> {
        let mut store = self.store.lock();
        let (plan, intents) = {
            let fleet = self.fleet.lock();
            let plan = match fleet.plan(operation, records)? {
                Planned::Already(order) => return Ok(order),
                Planned::New(plan) => plan,
            };
            let intents = fleet.intents_with(&plan);
            (plan, intents)
        };
        // Pings are heard meanwhile: a disk that is slow delays no other guest.
        store.store(&intents).map_err(OperateError::Storage)?;
        let mut fleet = self.fleet.lock();
        fleet.carry_out(&plan, records);
        let named = fleet.intents().named();
        if *self.named.read() != named {
            *self.named.write() = named;
            self.named_anew.fetch_add(1, Ordering::Release);
        }
        let (order, by, what) = (plan.order, &plan.by, &plan.what);
        log::info!("order {order} of {by}: {what} {}", plan.subject);
        self.take_news(&mut fleet);
        Ok(plan.order)
    }

    /// Called without the fleet's lock.
    fn add_what_happened(&self, statuses: &mut [VmStatus]) {
        let journal = self.journal.lock();
        for status in statuses {
            status.last_failover = journal.last_failover(&status.vm).cloned();
            status.last_failure = journal.last_failure(&status.vm).cloned();
        }
    }

    /// The guests that there are, behind `after`: as many as fit into a line.
    fn list(&self, after: Option<&VmName>, arbiter: &dyn Arbitrated) -> (Vec<VmStatus>, bool) {
        let fleet = self.fleet.lock();
        let records: Records<'_> = &|vm| arbiter.record(vm);
        let mut guests = fleet.guests(after);
        let first = guests.by_ref().take(LOOKED_AT);
        let mut statuses: Vec<VmStatus> = first.map(|vm| fleet.status(vm, records)).collect();
        let is_cut = guests.next().is_some();
        drop(guests);
        drop(fleet);
        self.add_what_happened(&mut statuses);
        let (vms, more) = crate::arbiter::protocol::page(statuses.into_iter());
        (vms, more || is_cut)
    }

    /// Every guest, and how often it changed hands.
    #[must_use]
    pub fn guests(&self, arbiter: &dyn Arbitrated) -> Vec<(VmStatus, Turns)> {
        let mut guests = Vec::new();
        let mut after = None;
        loop {
            let (statuses, more) = self.list(after.as_ref(), arbiter);
            after = statuses.last().map(|status| status.vm.clone());
            let journal = self.journal.lock();
            guests.extend((statuses.into_iter()).map(|status| {
                let turns = journal.turns(&status.vm);
                (status, turns)
            }));
            if !more || after.is_none() {
                return guests;
            }
        }
    }

    fn take_news(&self, fleet: &mut MutexGuard<'_, Fleet>) {
        let news = fleet.take_news();
        if news.is_empty() {
            return;
        }
        let unix_ms = (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH))
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let mut journal = self.journal.lock();
        for (subject, what) in news {
            journal.append(unix_ms, subject, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::definition;
    use super::*;
    use crate::state::Broken;

    struct NoRecords;

    impl Arbitrated for NoRecords {
        fn record(&self, _vm: &VmName) -> Record {
            Record::default()
        }
    }

    #[test]
    fn who_asks_hears_whether_it_is_open_that_it_counts() {
        for (broken, words) in [
            (
                Broken::Write,
                "nothing has changed: make room on its file system; ask again when",
            ),
            (Broken::Rename, "it is open whether that counts"),
            (Broken::Sync, "it is open whether that counts"),
        ] {
            let place = tempfile::tempdir().unwrap();
            let directory = StateDirectory::open(place.path()).unwrap();
            let service = FleetService::open(&directory).unwrap();
            *service.store.lock() = IntentStore(Box::new(broken));
            let define = Operation::Define {
                definition: Box::new(definition("db", 1)),
                by: crate::views::Text::cut("anna@ops1"),
            };
            let error = service.operate(define, &NoRecords).unwrap_err();
            let said = format!("{:#}", anyhow::Error::from(error));
            assert!(said.contains(words), "{broken:?}: {said}");
            let settles = said.contains("or for what is to be instead");
            assert_eq!(settles, broken != Broken::Write, "{said}");
            assert!(service.fleet.lock().intents().guests.is_empty());
        }
    }
}
