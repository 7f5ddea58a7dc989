//! Hosts that ping the view service, and idle ones to which it proposes a primary. Nobody who has a part in a
//! view depends on it: all that is done here is a fault to what has to get on.

use std::net::SocketAddr;

use disk_server::arbiter::{Claimant, Record};
use disk_server::views::{Condition, Ping, Proposal, Role as Does, Wanted};

use super::pinger::{Pinger, capabilities, vm};
use super::process::{Process, Role, Run, claimant};
use super::service::ADDRESS;
use super::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

impl Process {
    /// What it says that it does.
    fn does(&self, pinger: &Pinger) -> Option<Does> {
        let vm = vm();
        let epoch = self.owner.as_ref().map(|it| it.core.epoch());
        Some(match (&self.role, epoch) {
            (Role::Idle(_) | Role::Waits { .. }, _) => pinger.idle(),
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
        let Some(service) = &self.service else {
            return false;
        };
        let mut pinger = service.pingers[&process.run].clone();
        let Some(does) = process.does(&pinger) else {
            return false;
        };
        let record = self.advised();
        let news = !pinger.has_said(&does);
        let waits = matches!(process.role, Role::Idle(None)) && !pinger.is_answered();
        news || !service.has(process.run, &record)
            || waits && service.clone().ping(&pinger.ping(does), &record).is_some()
    }

    /// A run pings. The answer is on its way.
    pub(super) fn ping(&mut self, run: Run) {
        let (advised, record) = (self.advised(), self.server.record.clone());
        let keeps = self.happened.crashes < self.bounds.crashes;
        let process = self.processes.iter().find(|it| it.run == run);
        let (Some(process), Some(service)) = (process, &mut self.service) else {
            return;
        };
        let Some(pinger) = service.pingers.get_mut(&run) else {
            return;
        };
        let Some(does) = process.does(pinger) else {
            return;
        };
        let ping = pinger.ping(does);
        let proposal = service.ping(&ping, &advised);
        if keeps && matches!(ping.role, Does::Idle { .. }) {
            service.came.retain(|it| it.host != ping.host);
            service.came.push(ping.clone());
            service.came.sort_by(|a, b| a.host.cmp(&b.host));
        }
        // It is known now to be newer than those.
        service.late.retain(|it| it.host != ping.host);
        if let Some(pinger) = service.pingers.get_mut(&run) {
            pinger.answer(record.clone(), proposal.clone());
        }
        let Some(proposal) = proposal else { return };
        if self.is_member(&claimant(run)) {
            self.fail(Rule::Advice, "a member of the view is proposed");
        } else if record.epoch != proposal.view || record.holder != Some(proposal.primary) {
            let what = "a host is proposed for a view that is over, or to nobody's primary";
            self.fail(Rule::Advice, what);
        }
    }

    /// The answer to a run's ping comes.
    pub(super) fn hear_service(&mut self, run: Run) {
        let Some(proposal) = self.pinger(run).and_then(Pinger::hear) else {
            return;
        };
        match self.process_mut(run).map(|it| &mut it.role) {
            Some(Role::Idle(tries @ None)) => *tries = Some(proposal),
            _ => self.fail(Rule::Advice, "a host is to join that does so already"),
        }
    }

    fn pinger(&mut self, run: Run) -> Option<&mut Pinger> {
        self.service.as_mut()?.pingers.get_mut(&run)
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
        self.processes.push(Process::new(run, Role::Idle(None)));
        if let Some(service) = &mut self.service {
            service.add(run);
        }
    }

    /// An idle host does what is proposed to it, if it can.
    pub(super) fn connect(&mut self, run: Run, proposal: &Proposal) {
        let of = self.run_of(&proposal.primary);
        let free = |of: &Run| self.lets_in(*of) && self.is_confirmed(*of);
        let Some(of) = of.filter(free) else {
            return self.give_up(run);
        };
        if let Some(process) = self.process_mut(run) {
            let is_let_in = false;
            process.role = Role::Waits { of, is_let_in };
        }
        self.comes(run, of);
    }

    /// A backup is not taken: one that was proposed says so, and is idle again.
    pub(super) fn give_up(&mut self, run: Run) {
        let Some(pinger) = self.pinger(run) else {
            return self.remove(run);
        };
        pinger.decline();
        if let Some(process) = self.process_mut(run) {
            process.role = Role::Idle(None);
        }
    }
}
