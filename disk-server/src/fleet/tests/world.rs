//! Hosts that carry orders out, as `ftvm host`, `ftvm primary` and `ftvm backup` do, second by second.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::arbiter::{
    Answer as Decided, ClaimRequest, Claimant, HostName, Next, Record, VmName, acknowledge, decide,
};
use crate::fleet::{
    Definition, Entry, Fleet, HostVerb, Image, ImageDigest, LagBounds, NamedHosts, Operation,
    Order, OrderNumber, Planned, Refused, State, Subject, Verb, VmStatus, What,
};
use crate::views::{
    Capabilities, Condition, Ended, Paging, Phase, Ping, Proposal, Role, Tended, Text, Wanted,
    WentLive,
};

pub(super) const GUEST_MIB: u64 = 1024;

/// A run of `ftvm primary` or `ftvm backup`.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) claimant: Claimant,
    number: u64,
    pub(super) does: Does,
    /// It does nothing, and does not know it.
    pub(super) is_frozen: bool,
    /// It runs on, and the service does not hear of it.
    pub(super) is_cut_off: bool,
    went_live: Option<WentLive>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Does {
    /// It is about to claim the guest from this epoch.
    Starts { from: u64 },
    /// It runs the guest.
    Runs {
        epoch: u64,
        backup: Option<Claimant>,
        protected: bool,
    },
    /// It is about to connect.
    Connects(Proposal),
    /// It is the backup.
    Follows {
        primary: Claimant,
        epoch: u64,
        protected: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) daemon: Option<Daemon>,
    pub(super) memory_mib: u64,
    pub(super) processes: BTreeMap<VmName, Process>,
    /// Its pings, and its processes', do not come.
    pub(super) is_cut_off: bool,
    /// Connections to primaries elsewhere fail.
    pub(super) logging_is_down: bool,
    /// Processes end at once with this status.
    pub(super) fails_with: Option<i32>,
    /// Processes are started, and do nothing.
    pub(super) hangs: bool,
    /// Which machine has its name.
    pub(super) machine: String,
    ends: u64,
    untold: Vec<Ended>,
}

#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) claimant: Claimant,
    number: u64,
}

pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) records: BTreeMap<VmName, Record>,
    pub(super) hosts: BTreeMap<HostName, Host>,
    pub(super) journal: Vec<Entry>,
    nonce: u64,
    /// Starts that were ordered, by the epoch from which.
    pub(super) starts: Vec<(VmName, u64, HostName)>,
    pub(super) orders: Vec<(Claimant, Order)>,
    /// Those that were told to stop, as long as they take their time over it.
    stopping: Option<BTreeSet<Claimant>>,
}

pub(super) fn vm() -> VmName {
    "db".parse().unwrap()
}

pub(super) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(super) fn definition(vm: &str, mac: u8) -> Definition {
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

    fn claimant(&mut self, host: &HostName) -> Claimant {
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

    fn note(&mut self) {
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

    fn send(&mut self, ping: &Ping, from: &HostName) -> Option<Order> {
        let octet = from.as_str().as_bytes()[0];
        let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, octet));
        let records = self.records.clone();
        let records = |vm: &VmName| records.get(vm).cloned().unwrap_or_default();
        let order = self.fleet.ping(ping, from, &records).expect("few hosts");
        self.note();
        if let Some(order) = &order {
            self.orders.push((ping.host.clone(), order.clone()));
        }
        order
    }

    fn carries(&self, name: &HostName) -> Capabilities {
        let host = &self.hosts[name];
        let taken = GUEST_MIB * host.processes.len() as u64;
        Capabilities {
            memory_mib: host.memory_mib.saturating_sub(taken),
            processor: Text::cut("a processor"),
            instructions: 7,
            paging: Paging::Shadow,
            exports: BTreeSet::from(["db".parse().unwrap(), "web".parse().unwrap()]),
        }
    }

    pub(super) fn daemon_pings(&mut self, name: &HostName) {
        let carries = self.carries(name);
        let host = self.hosts.get_mut(name).unwrap();
        let Some(daemon) = host.daemon.as_mut().filter(|_| !host.is_cut_off) else {
            return;
        };
        daemon.number += 1;
        let processes = host.processes.iter();
        let processes = processes.map(|(vm, it)| (vm.clone(), Some(it.claimant.clone())));
        let told = host.untold.iter().take(4).cloned().collect::<Vec<_>>();
        let ping = Ping {
            host: daemon.claimant.clone(),
            number: daemon.number,
            carries,
            role: Role::Host(Tended {
                processes: processes.collect(),
                ended: told.clone(),
                machine: Text::cut(&host.machine),
                console: "0.0.0.0:7422".parse().unwrap(),
            }),
        };
        let order = self.send(&ping, name);
        let host = self.hosts.get_mut(name).unwrap();
        host.untold.drain(..told.len());
        let (vm, does) = match order {
            Some(Order::Start { vm, epoch }) => {
                self.starts.push((vm.clone(), epoch, name.clone()));
                (vm, Does::Starts { from: epoch })
            }
            Some(Order::Join(proposal)) => (proposal.vm.clone(), Does::Connects(*proposal)),
            Some(other) => panic!("{other:?} to a daemon"),
            None => return,
        };
        let has_process = self.hosts[name].processes.contains_key(&vm);
        assert!(!has_process, "{name} has a process of {vm}");
        let claimant = self.claimant(name);
        let process = Process {
            claimant,
            number: 0,
            does,
            is_frozen: false,
            is_cut_off: false,
            went_live: None,
        };
        let host = self.hosts.get_mut(name).unwrap();
        host.processes.insert(vm.clone(), process);
        if let Some(status) = host.fails_with {
            self.end(name, &vm, Some(status), "it cannot");
        }
    }

    /// A process ends.
    pub(super) fn end(&mut self, name: &HostName, vm: &VmName, status: Option<i32>, why: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        if host.processes.remove(vm).is_some() {
            host.ends += 1;
            host.untold.push(Ended {
                number: host.ends,
                vm: vm.clone(),
                status,
                reason: Text::cut(why),
            });
        }
    }

    fn claim(&mut self, vm: &VmName, expected: u64, who: &Claimant, next: Next) -> Option<u64> {
        let request = ClaimRequest {
            expected,
            claimant: who.clone(),
            next,
        };
        let record = self.records.get(vm).cloned().unwrap_or_default();
        let (answer, new) = decide(&record, &request);
        if let Some(new) = new {
            self.records.insert(vm.clone(), new);
        }
        match answer {
            Decided::Won { epoch } => Some(epoch),
            Decided::Lost { .. } => None,
        }
    }

    fn is_alive(&self, who: &Claimant, vm: &VmName) -> bool {
        let process = self
            .hosts
            .get(&who.host())
            .and_then(|it| it.processes.get(vm));
        process.is_some_and(|it| it.claimant == *who && !it.is_frozen)
    }

    fn process(&mut self, name: &HostName, vm: &VmName) -> &mut Process {
        let host = self.hosts.get_mut(name).unwrap();
        host.processes.get_mut(vm).unwrap()
    }

    fn goes_alone(&mut self, name: &HostName, vm: &VmName, epoch: u64, live: bool) {
        let me = self.process(name, vm).claimant.clone();
        match self.claim(vm, epoch, &me, Next::Alone) {
            Some(epoch) => {
                let it = self.process(name, vm);
                it.does = Does::Runs {
                    epoch,
                    backup: None,
                    protected: false,
                };
                if live {
                    let outage_ms = 700;
                    it.went_live = Some(WentLive { epoch, outage_ms });
                }
            }
            None => self.end(name, vm, Some(3), "another host runs it"),
        }
    }

    pub(super) fn process_acts(&mut self, name: &HostName, vm: &VmName) {
        let Process {
            claimant: me,
            does,
            is_frozen,
            ..
        } = self.process(name, vm).clone();
        if is_frozen || self.hosts[name].hangs {
            return;
        }
        match does {
            Does::Starts { from } => match self.claim(vm, from, &me, Next::Start) {
                Some(epoch) => {
                    self.process(name, vm).does = Does::Runs {
                        epoch,
                        backup: None,
                        protected: false,
                    };
                }
                None => self.end(name, vm, Some(3), "another host runs it"),
            },
            Does::Connects(proposal) => self.connects(name, vm, &me, &proposal),
            Does::Runs {
                epoch,
                backup: Some(backup),
                ..
            } if !self.is_alive(&backup, vm) => self.goes_alone(name, vm, epoch, false),
            Does::Runs {
                epoch,
                backup: Some(backup),
                protected: false,
            } => {
                let record = self.records[vm].clone();
                if let Some(new) = acknowledge(&record, epoch, &me) {
                    self.records.insert(vm.clone(), new);
                }
                let all = |does: &mut Does| match does {
                    Does::Runs { protected, .. } | Does::Follows { protected, .. } => {
                        *protected = true;
                    }
                    _ => {}
                };
                all(&mut self.process(name, vm).does);
                all(&mut self.process(&backup.host(), vm).does);
            }
            Does::Runs { epoch, .. } => {
                if self.records[vm].epoch > epoch {
                    self.end(name, vm, Some(3), "another host runs it");
                }
            }
            Does::Follows {
                primary,
                epoch,
                protected,
            } => {
                let is_mine = |does: &Does| matches!(does, Does::Runs { backup, .. } if backup.as_ref() == Some(&me));
                let runs = self.is_alive(&primary, vm)
                    && is_mine(&self.process(&primary.host(), vm).does.clone());
                if !runs && protected {
                    self.goes_alone(name, vm, epoch, true);
                } else if !runs {
                    self.end(name, vm, Some(4), "it had not joined");
                }
            }
        }
    }

    fn connects(&mut self, name: &HostName, vm: &VmName, me: &Claimant, proposal: &Proposal) {
        let primary = &proposal.primary;
        let reaches = !self.hosts[name].logging_is_down && self.is_alive(primary, vm);
        let alone = reaches
            && matches!(
                &self.process(&primary.host(), vm).does,
                Does::Runs { epoch, backup: None, .. } if *epoch == proposal.view
            );
        let next = Next::With(me.clone());
        let won = match alone {
            true => self.claim(vm, proposal.view, primary, next),
            false => None,
        };
        let Some(epoch) = won else {
            let why = "cannot connect to the primary at 10.0.1.1:7430: timed out";
            return self.end(name, vm, Some(1), why);
        };
        self.process(&primary.host(), vm).does = Does::Runs {
            epoch,
            backup: Some(me.clone()),
            protected: false,
        };
        self.process(name, vm).does = Does::Follows {
            primary: primary.clone(),
            epoch,
            protected: false,
        };
    }

    pub(super) fn process_pings(&mut self, name: &HostName, vm: &VmName) {
        let carries = self.carries(name);
        let is_cut_off = self.hosts[name].is_cut_off;
        let Some(it) = self.hosts.get_mut(name).unwrap().processes.get_mut(vm) else {
            return;
        };
        if is_cut_off || it.is_cut_off || it.is_frozen {
            return;
        }
        let condition = |phase| Condition {
            phase,
            lag_ms: 3,
            log_bytes_per_second: 1000,
            went_live: it.went_live,
        };
        let role = match &it.does {
            Does::Starts { .. } | Does::Connects(_) => return,
            Does::Runs {
                epoch,
                backup,
                protected,
            } => Role::Primary {
                vm: vm.clone(),
                epoch: *epoch,
                wants: backup.is_none().then(|| Wanted {
                    address: "10.0.1.1:7430".parse().unwrap(),
                    needs: Capabilities {
                        memory_mib: GUEST_MIB,
                        exports: BTreeSet::from([vm.as_str().parse().unwrap()]),
                        ..carries.clone()
                    },
                }),
                condition: condition(match (backup, protected) {
                    (None, _) => Phase::Alone,
                    (Some(_), false) => Phase::Joining { percent: 40 },
                    (Some(_), true) => Phase::Protected,
                }),
            },
            Does::Follows {
                epoch, protected, ..
            } => Role::Backup {
                vm: vm.clone(),
                epoch: *epoch,
                condition: condition(match protected {
                    true => Phase::Protected,
                    false => Phase::Joining { percent: 40 },
                }),
            },
        };
        it.number += 1;
        let (me, does) = (it.claimant.clone(), it.does.clone());
        let ping = Ping {
            host: me.clone(),
            number: it.number,
            carries,
            role,
        };
        match (self.send(&ping, name), does) {
            (None, _) => {}
            (
                Some(Order::HandOver { view }),
                Does::Runs {
                    epoch,
                    backup: Some(backup),
                    protected: true,
                },
            ) => {
                if view == epoch && self.is_alive(&backup, vm) {
                    self.end(name, vm, Some(3), "it was handed over");
                    self.goes_alone(&backup.host(), vm, epoch, true);
                }
            }
            (Some(Order::Stop {}), does @ Does::Runs { .. }) => match &mut self.stopping {
                Some(stopping) => drop(stopping.insert(me)),
                None => self.stops(name, vm, (me, does)),
            },
            (Some(Order::Die { view }), Does::Runs { epoch, .. }) => {
                assert_eq!(view, epoch);
                self.end(name, vm, None, "killed by SIGKILL");
            }
            (Some(Order::Leave {}), Does::Follows { .. }) => {
                self.end(name, vm, Some(0), "it was asked to leave");
            }
            (order, does) => panic!("{order:?} to {me}, which {does:?}"),
        }
    }

    /// A primary ends its guest in order.
    fn stops(&mut self, name: &HostName, vm: &VmName, (me, does): (Claimant, Does)) {
        let Does::Runs { epoch, backup, .. } = does else {
            return;
        };
        if self.claim(vm, epoch, &me, Next::Stopped).is_some() {
            self.end(name, vm, Some(0), "it was stopped");
            if let Some(backup) = backup {
                self.end(&backup.host(), vm, Some(0), "it was stopped");
            }
        }
    }

    /// Whether primaries take their time over a stop. Those that were told before end when they no longer do.
    pub(super) fn ends_slowly(&mut self, is_slow: bool) {
        let told = std::mem::replace(&mut self.stopping, is_slow.then(BTreeSet::new));
        for me in told.into_iter().flatten() {
            let does = self.process(&me.host(), &vm()).does.clone();
            self.stops(&me.host(), &vm(), (me, does));
        }
    }

    /// A guest ends by itself.
    pub(super) fn powers_off(&mut self, status: i32, why: &str) {
        let record = self.record();
        let holder = record.holder.clone().unwrap();
        self.claim(&vm(), record.epoch, &holder, Next::Stopped)
            .unwrap();
        self.end(&holder.host(), &vm(), Some(status), why);
        if let Some(backup) = record.backup {
            self.end(&backup.host(), &vm(), Some(0), "the guest has ended");
        }
    }
}
