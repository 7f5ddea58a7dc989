//! A service, and hosts that carry its orders out, as `ftvm host`, `ftvm primary` and `ftvm backup` do, second
//! by second.

use std::collections::{BTreeMap, BTreeSet};

use super::hosts::{Daemon, GUEST_MIB, Host};
use crate::arbiter::{Claimant, HostName, Record, VmName};
use crate::fleet::{
    Definition, Entry, Fleet, HostVerb, Image, ImageDigest, LagBounds, NamedHosts, Operation,
    Order, OrderNumber, Planned, Refused, State, Subject, Verb, VmStatus, What,
};
use crate::views::Text;

pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) records: BTreeMap<VmName, Record>,
    pub(super) hosts: BTreeMap<HostName, Host>,
    pub(super) journal: Vec<Entry>,
    pub(super) nonce: u64,
    /// Starts that were ordered, by the epoch from which.
    pub(super) starts: Vec<(VmName, u64, HostName)>,
    pub(super) orders: Vec<(Claimant, Order)>,
    /// Those that were told to stop, as long as they take their time over it.
    pub(super) stopping: Option<BTreeSet<Claimant>>,
    /// Primaries do not hand guests over.
    pub(super) keeps_guests: bool,
}

pub(super) fn vm() -> VmName {
    "db".parse().unwrap()
}

pub(super) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(in crate::fleet) fn definition(vm: &str, mac: u8) -> Definition {
    Definition {
        vm: vm.parse().unwrap(),
        memory_mib: GUEST_MIB,
        kernel: Image {
            path: "/images/kernel".to_owned(),
            sha256: ImageDigest([7; 32]),
        },
        initrd: None,
        append: String::new(),
        mac: format!("52:54:00:00:00:{mac:02x}"),
        clock: "host".to_owned(),
        disk: Some(format!("nbd://10.0.2.9/{vm}")),
        export: Some(vm.parse().unwrap()),
        heartbeat_timeout_ms: None,
        lag: LagBounds::default(),
        hosts: NamedHosts::default(),
    }
}

pub(super) fn by() -> Text {
    Text::cut("anna@ops1")
}

pub(super) fn migrate(to: &str) -> Verb {
    Verb::MigrateBackup { to: host(to) }
}

pub(super) fn migrate_primary(to: &str) -> Verb {
    Verb::MigratePrimary { to: host(to) }
}

impl World {
    /// Hosts of these names, with daemons, and a service that has run for a while.
    pub(super) fn of(hosts: &[&str]) -> World {
        let mut world = World {
            fleet: Fleet::default(),
            records: BTreeMap::new(),
            hosts: BTreeMap::new(),
            journal: Vec::new(),
            nonce: 0,
            starts: Vec::new(),
            orders: Vec::new(),
            stopping: None,
            keeps_guests: false,
        };
        for (n, name) in hosts.iter().enumerate() {
            let it = Host {
                daemon: None,
                memory_mib: 8192 - 1024 * n as u64,
                processes: BTreeMap::new(),
                is_cut_off: false,
                logging_is_down: false,
                fails_with: None,
                hangs: false,
                machine: format!("machine {name}"),
                ends: 0,
                untold: Vec::new(),
            };
            world.hosts.insert(host(name), it);
            world.start_daemon(name);
        }
        world.pass(6);
        world
    }

    /// The same, with a guest that is protected: by default its primary is on the first host, and its backup on
    /// the second.
    pub(super) fn protected(hosts: &[&str]) -> World {
        let mut world = World::of(hosts);
        world.define("db", 1).unwrap();
        world.verb(Verb::Start { force: false }).unwrap();
        world.until(|world| world.state() == State::Protected);
        world
    }

    pub(super) fn claimant(&mut self, host: &HostName) -> Claimant {
        self.nonce += 1;
        format!("{host}/{:04x}", self.nonce).parse().unwrap()
    }

    pub(super) fn start_daemon(&mut self, name: &str) {
        let claimant = self.claimant(&host(name));
        let it = self.hosts.get_mut(&host(name)).unwrap();
        it.daemon = Some(Daemon {
            claimant,
            number: 0,
        });
    }

    pub(super) fn at(&mut self, name: &str) -> &mut Host {
        self.hosts.get_mut(&host(name)).unwrap()
    }

    /// The power of a host goes.
    pub(super) fn crash(&mut self, name: &str) {
        let it = self.at(name);
        it.daemon = None;
        it.processes.clear();
        it.untold.clear();
        it.ends = 0;
    }

    /// The service ends, and starts again with what it has stored.
    pub(super) fn restart_service(&mut self) {
        let intents = self.fleet.intents().clone();
        let json = serde_json::to_vec(&intents).unwrap();
        let intents = serde_json::from_slice(&json).unwrap();
        self.fleet = Fleet::resume(intents, &self.journal);
    }

    pub(super) fn record(&self) -> Record {
        self.records.get(&vm()).cloned().unwrap_or_default()
    }

    /// Where the guest's primary and backup are, as the record has it.
    pub(super) fn places(&self) -> (Option<HostName>, Option<HostName>) {
        let record = self.record();
        let primary = record.holder.filter(|it| !it.is_stopped());
        (
            primary.map(|it| it.host()),
            record.backup.map(|it| it.host()),
        )
    }

    pub(super) fn places_are(&self, primary: &str, backup: &str) -> bool {
        self.places() == (Some(host(primary)), Some(host(backup)))
    }

    pub(super) fn state(&self) -> State {
        self.status().state
    }

    pub(super) fn status(&self) -> VmStatus {
        let records = &self.records;
        self.fleet
            .status(&vm(), &|vm| records.get(vm).cloned().unwrap_or_default())
    }

    pub(super) fn ask(&mut self, operation: Operation) -> Result<OrderNumber, Refused> {
        let records = self.records.clone();
        let records = |vm: &VmName| records.get(vm).cloned().unwrap_or_default();
        let order = match self.fleet.plan(operation, &records)? {
            Planned::Already(order) => order,
            Planned::New(plan) => {
                let stored = self.fleet.intents_with(&plan);
                self.fleet.carry_out(&plan, &records);
                let now = self.fleet.intents();
                assert!(now == &stored || self.fleet.take_changed());
                plan.order
            }
        };
        self.note();
        Ok(order)
    }

    pub(super) fn define(&mut self, vm: &str, mac: u8) -> Result<OrderNumber, Refused> {
        self.ask(Operation::Define {
            definition: Box::new(definition(vm, mac)),
            by: by(),
        })
    }

    pub(super) fn verb(&mut self, verb: Verb) -> Result<OrderNumber, Refused> {
        self.ask(Operation::Guest {
            vm: vm(),
            verb,
            by: by(),
        })
    }

    pub(super) fn host_verb(&mut self, name: &str, verb: HostVerb) -> Result<OrderNumber, Refused> {
        self.ask(Operation::Host {
            host: host(name),
            verb,
            by: by(),
        })
    }

    /// As the host itself.
    pub(super) fn own_verb(&mut self, name: &str, verb: HostVerb) -> OrderNumber {
        let host = host(name);
        let asked = self.ask(Operation::OwnHost { host, verb });
        asked.expect("it is granted")
    }

    pub(super) fn note(&mut self) {
        for (subject, what) in self.fleet.take_news() {
            let number = self.journal.len() as u64 + 1;
            self.journal.push(Entry {
                number,
                unix_ms: 0,
                subject,
                what,
            });
        }
    }

    /// How an order went, as far as the journal knows: `Ok` where it is done.
    pub(super) fn outcome(&self, number: OrderNumber) -> Option<Result<String, String>> {
        self.journal.iter().find_map(|entry| match &entry.what {
            What::Done { order, how } if *order == number => Some(Ok(how.to_string())),
            What::Failed { order, why } if *order == number => Some(Err(why.to_string())),
            _ => None,
        })
    }

    /// The states that the journal has of the guest.
    pub(super) fn told_states(&self) -> Vec<String> {
        let of_it = (self.journal.iter()).filter(|entry| entry.subject == Subject::Vm(vm()));
        let states = of_it.filter_map(|entry| match &entry.what {
            What::State(state) => Some(state.to_string()),
            _ => None,
        });
        states.collect()
    }

    pub(super) fn pass(&mut self, seconds: u32) {
        (0..seconds).for_each(|_| self.second());
    }

    /// Lets time pass until that is so.
    #[track_caller]
    pub(super) fn until(&mut self, is_so: impl Fn(&World) -> bool) {
        for _ in 0..300 {
            if is_so(self) {
                return;
            }
            self.second();
        }
        panic!(
            "it does not come: {:?} {:?}\n{:#?}",
            self.state(),
            self.record(),
            self.journal
        );
    }

    #[track_caller]
    pub(super) fn until_done(&mut self, order: OrderNumber) -> String {
        self.until(|world| world.outcome(order).is_some());
        self.outcome(order).unwrap().expect("it is done")
    }

    #[track_caller]
    pub(super) fn until_failed(&mut self, order: OrderNumber) -> String {
        self.until(|world| world.outcome(order).is_some());
        self.outcome(order).unwrap().expect_err("it fails")
    }

    pub(super) fn second(&mut self) {
        self.tick();
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            self.daemon_pings(&name);
            for vm in self.hosts[&name]
                .processes
                .keys()
                .cloned()
                .collect::<Vec<_>>()
            {
                self.process_acts(&name, &vm);
                self.process_pings(&name, &vm);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        let records = self.records.clone();
        let records = |vm: &VmName| records.get(vm).cloned().unwrap_or_default();
        self.fleet.tick(&records);
        self.note();
    }
}
