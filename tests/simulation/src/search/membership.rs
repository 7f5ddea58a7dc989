//! Hosts that ping the view service, and idle ones to which it proposes a primary. Nobody who has a part in a
//! view depends on it: all that is done here is a fault to what has to get on.

use std::net::SocketAddr;

use disk_server::arbiter::{Claimant, Record, VmName};
use disk_server::views::{
    Capabilities, Condition, Declined, Paging, Ping, Proposal, Role as Does, Text, Wanted,
};

use super::process::{Pings, Process, Role, Run, claimant};
use super::service::ADDRESS;
use super::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

fn vm() -> VmName {
    "db".parse().expect("a name")
}

fn capabilities() -> Capabilities {
    Capabilities {
        memory_mib: 1024,
        processor: Text::cut("one"),
        instructions: 1,
        paging: Paging::Shadow,
        exports: std::iter::empty().collect(),
    }
}

impl Process {
    /// What it says that it does.
    fn does(&self) -> Option<Does> {
        let vm = vm();
        let epoch = self.owner.as_ref().map(|it| it.core.epoch());
        Some(match (&self.role, epoch) {
            (Role::Idle { declined, .. }, _) => Does::Idle {
                vm,
                declined: declined.map(|view| Declined {
                    view,
                    reason: Text::cut("it was not taken"),
                }),
            },
            (Role::Runs(it), Some(epoch)) => Does::Primary {
                vm,
                epoch,
                wants: it.live.is_alone().then(|| Wanted {
                    address: SocketAddr::new(ADDRESS, 7421),
                    needs: capabilities(),
                }),
                condition: Condition::default(),
            },
            (Role::Follows(_), Some(epoch)) => Does::Backup {
                vm,
                epoch,
                condition: Condition::default(),
            },
            _ => return None,
        })
    }

    /// Its next ping.
    fn ping(&self) -> Option<Ping> {
        Some(Ping {
            host: claimant(self.run),
            number: self.pings.number + 1,
            carries: capabilities(),
            role: self.does()?,
        })
    }
}

impl World {
    /// What the service has for the record.
    fn advised(&self) -> Record {
        let mut record = self.server.record.clone();
        if self.has(Defect::ProposesMembers) {
            record.acknowledged = false;
        }
        record
    }

    /// Whether another ping of a run could change anything.
    pub(super) fn may_ping(&self, process: &Process) -> bool {
        let (Some(service), Some(ping)) = (&self.service, process.ping()) else {
            return false;
        };
        let record = self.advised();
        let news = process.pings.last.as_ref() != Some(&ping.role);
        let waits = matches!(process.role, Role::Idle { told: None, .. });
        news || !service.has(process.run, &record)
            || waits && service.clone().ping(&ping, &record).is_some()
    }

    /// A run pings, and is answered.
    pub(super) fn ping(&mut self, run: Run) {
        let record = self.advised();
        let Some(ping) = self.process(run).and_then(Process::ping) else {
            return;
        };
        let keeps = self.happened.crashes < self.bounds.crashes;
        let Some(service) = &mut self.service else {
            return;
        };
        let proposal = service.ping(&ping, &record);
        if keeps && matches!(ping.role, Does::Idle { .. }) {
            service.came.retain(|it| it.host != ping.host);
            service.came.push(ping.clone());
            service.came.sort_by(|a, b| a.host.cmp(&b.host));
        }
        // It is known now to be newer than those.
        service.late.retain(|it| it.host != ping.host);
        let Some(process) = self.process_mut(run) else {
            return;
        };
        process.pings = Pings {
            number: ping.number,
            last: Some(ping.role),
        };
        if let Some(proposal) = proposal {
            self.proposed(run, proposal);
        }
    }

    fn proposed(&mut self, run: Run, proposal: Proposal) {
        let record = &self.server.record;
        if self.is_member(&claimant(run)) {
            self.fail(Rule::Advice, "a member of the view is proposed");
        } else if record.epoch != proposal.view || record.holder != Some(proposal.primary.clone()) {
            let what = "a host is proposed for a view that is over, or to nobody's primary";
            self.fail(Rule::Advice, what);
        }
        let process = self.process_mut(run);
        if let Some(Role::Idle { told, .. }) = process.map(|it| &mut it.role) {
            *told = Some(proposal);
        }
    }

    /// Pings of before, which may come to a service that has started anew.
    pub(super) fn late_pings(&self) -> impl Iterator<Item = &Ping> {
        self.service.iter().flat_map(|it| &it.late)
    }

    /// One comes. Its host is told of a proposal when it pings the next time, if it is there.
    pub(super) fn late_ping(&mut self, ping: &Ping) {
        let record = self.advised();
        let Some(service) = &mut self.service else {
            return;
        };
        if service.ping(ping, &record).is_some() && self.is_member(&ping.host) {
            self.fail(Rule::Advice, "a member of the view is proposed");
        }
    }

    /// Whether it is the primary of the view, or its backup that has taken over.
    pub(super) fn is_member(&self, host: &Claimant) -> bool {
        let record = &self.server.record;
        let is = |member: &Option<Claimant>| member.as_ref() == Some(host);
        is(&record.holder) || record.acknowledged && is(&record.backup)
    }

    fn run_of(&self, host: &Claimant) -> Option<Run> {
        let mut processes = self.processes.iter().map(|it| it.run);
        processes.find(|run| claimant(*run) == *host)
    }

    /// All pings stay away for so long that every host counts as dead.
    pub(super) fn silence(&mut self) {
        self.happened.silences += 1;
        if let Some(service) = &mut self.service {
            service.silence();
        }
    }

    /// An idle host starts.
    pub(super) fn start_idle(&mut self) {
        let run = self.runs;
        self.runs += 1;
        self.happened.backups += 1;
        let role = Role::Idle {
            told: None,
            declined: None,
        };
        self.processes.push(Process::new(run, role));
    }

    /// An idle host does what is proposed to it, if it can.
    pub(super) fn connect(&mut self, run: Run, proposal: &Proposal) {
        let of = self.run_of(&proposal.primary);
        let free = |of: &Run| self.lets_in(*of) && self.is_confirmed(*of);
        let of = of.filter(free);
        let Some(process) = self.process_mut(run) else {
            return;
        };
        match of {
            Some(of) => {
                let is_let_in = false;
                process.role = Role::Waits { of, is_let_in };
                self.comes(run, of);
            }
            None => {
                process.role = Role::Idle {
                    told: None,
                    declined: Some(proposal.view),
                };
            }
        }
    }

    /// A backup that waits is not taken.
    pub(super) fn give_up(&mut self, run: Run) {
        if self.service.is_none() {
            return self.remove(run);
        }
        let view = self.server.record.epoch;
        if let Some(process) = self.process_mut(run) {
            process.role = Role::Idle {
                told: None,
                declined: Some(view),
            };
        }
    }
}
