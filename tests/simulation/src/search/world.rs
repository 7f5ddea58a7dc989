//! A state of everything: the processes, the disk server and what the client has seen.

use std::collections::BTreeSet;

use disk_server::arbiter::Record;
use ftvm_vmm::protocol::epoch::Core;

use super::bounds::Bounds;
use super::process::{Follows, Guest, Owner, Process, Role, Run, Runs, claimant};
use super::server::Server;
use super::service::Service;
use crate::defect::Defect;
use crate::rule::Rule;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) bounds: Bounds,
    defect: Option<Defect>,
    /// In the order of their runs.
    pub(super) processes: Vec<Process>,
    pub(super) server: Server,
    pub(super) service: Option<Service>,
    /// What the client has the replies to, as the guest lived through it.
    pub(super) replied: Guest,
    pub(super) runs: Run,
    pub(super) happened: Happened,
    pub(super) broken: Option<(Rule, &'static str)>,
}

/// What has happened so often, within the bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Happened {
    pub(super) backups: u8,
    pub(super) kills: u8,
    pub(super) cuts: u8,
    pub(super) differences: u8,
    pub(super) renewals: u8,
    pub(super) hand_overs: u8,
    pub(super) abandons: u8,
    pub(super) crashes: u8,
    pub(super) silences: u8,
    pub(super) sent_away: u8,
    pub(super) writes: u8,
    pub(super) reconnects: u8,
    pub(super) failovers: u8,
    pub(super) ended: bool,
    pub(super) forced: bool,
    /// With a run that was killed, or gave up for its backup, went the last copy of the guest.
    pub(super) lost: bool,
    /// These were killed, and what they asked may come yet.
    pub(super) gone: BTreeSet<Run>,
}

impl World {
    pub(super) fn new(bounds: Bounds, defect: Option<Defect>) -> Self {
        let me = claimant(0);
        let mut primary = Process::new(0, Role::Runs(Runs::alone(Guest::new())));
        primary.owner = Some(Owner::new(Core::holding(me.clone(), 1)));
        Self {
            bounds,
            defect,
            processes: vec![primary],
            server: Server::new(Record::held(1, me), bounds.writes > 0),
            service: bounds.silences.is_some().then(|| Service::running(0)),
            replied: Guest::new(),
            runs: 1,
            happened: Happened::default(),
            broken: None,
        }
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(super) fn fail(&mut self, rule: Rule, what: &'static str) {
        self.broken.get_or_insert((rule, what));
    }

    pub(super) fn process(&self, run: Run) -> Option<&Process> {
        self.processes.iter().find(|it| it.run == run)
    }

    pub(super) fn process_mut(&mut self, run: Run) -> Option<&mut Process> {
        self.processes.iter_mut().find(|it| it.run == run)
    }

    pub(super) fn owner(&mut self, run: Run) -> Option<&mut Owner> {
        self.process_mut(run)?.owner.as_mut()
    }

    pub(super) fn runner(&self, run: Run) -> Option<&Runs> {
        self.process(run)?.runs()
    }

    pub(super) fn follower(&self, run: Run) -> Option<&Follows> {
        self.process(run)?.follows()
    }

    /// A process that runs the guest.
    pub(super) fn runs(&mut self, run: Run) -> &mut Runs {
        match self.process_mut(run).map(|it| &mut it.role) {
            Some(Role::Runs(it)) => it,
            other => unreachable!("it does not run the guest: {other:?}"),
        }
    }

    /// A process that follows one.
    pub(super) fn follows(&mut self, run: Run) -> &mut Follows {
        match self.process_mut(run).map(|it| &mut it.role) {
            Some(Role::Follows(it)) => it,
            other => unreachable!("it does not follow: {other:?}"),
        }
    }

    /// There is no such process any more.
    pub(super) fn remove(&mut self, run: Run) {
        self.processes.retain(|it| it.run != run);
    }

    pub(super) fn kill(&mut self, run: Run) {
        self.happened.kills += 1;
        self.happened.gone.insert(run);
        self.remove(run);
        self.happened.lost |= !self.is_left();
    }

    /// Whether there is a copy of the guest.
    pub(super) fn is_left(&self) -> bool {
        self.processes.iter().any(Process::is_copy)
    }

    /// Forgets what can make no difference any more.
    pub(super) fn forget(&mut self) {
        self.server.forget_spent();
        let there = |run| self.processes.iter().any(|it| it.run == run);
        if let Some(disk) = &mut self.server.disk {
            disk.close(there);
        }
        if let Some(service) = &mut self.service {
            service.pingers.retain(|run, _| there(*run));
        }
        let server = &self.server;
        self.happened.gone.retain(|run| server.knows(*run));
        for process in &mut self.processes {
            if let Role::Runs(it) = &mut process.role {
                it.forget();
            }
        }
    }
}
