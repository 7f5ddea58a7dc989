//! What hosts do: they ping, and carry out what they are told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::hosts::{Does, GUEST_MIB, Process};
use super::world::{World, vm};
use crate::arbiter::{
    Answer as Decided, ClaimRequest, Claimant, HostName, Next, VmName, acknowledge, decide,
};
use crate::fleet::Order;
use crate::views::{
    Capabilities, Cause, Condition, Ended, Paging, Phase, Ping, Proposal, Role, Tended, Text,
    Wanted, WentLive,
};

impl World {
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
            says: None,
        };
        let host = self.hosts.get_mut(name).unwrap();
        host.processes.insert(vm.clone(), process);
        if let Some(status) = host.fails_with {
            self.end(name, &vm, Some(status), "it cannot");
        }
    }

    /// A process ends.
    pub(super) fn end(&mut self, name: &HostName, vm: &VmName, status: Option<i32>, why: &str) {
        self.end_for(name, vm, status, (Cause::Other, why));
    }

    fn end_for(
        &mut self,
        name: &HostName,
        vm: &VmName,
        status: Option<i32>,
        (cause, why): (Cause, &str),
    ) {
        let host = self.hosts.get_mut(name).unwrap();
        if host.processes.remove(vm).is_some() {
            host.ends += 1;
            host.untold.push(Ended {
                number: host.ends,
                vm: vm.clone(),
                status,
                cause,
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
            let cause = match reaches {
                true => Cause::Other,
                false => Cause::Unreached,
            };
            let why = "no primary answered at 10.0.1.1:7430 in time";
            return self.end_for(name, vm, Some(1), (cause, why));
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
        let condition = |phase| {
            let (phase, lag_ms) = it.says.unwrap_or((phase, 3));
            Condition {
                phase,
                lag_ms,
                log_bytes_per_second: 1000,
                went_live: it.went_live,
            }
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
                if view == epoch && self.is_alive(&backup, vm) && !self.keeps_guests {
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
