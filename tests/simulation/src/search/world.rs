//! A state of everything, and how it changes.

use std::collections::BTreeSet;

use disk_server::arbiter::{
    Answer, Claim, ClaimRequest, Claimant, Next, Record, acknowledge, decide,
};
use ftvm_vmm::protocol::epoch::{Core, Effect, Input, Task};
use ftvm_vmm::protocol::follower::{AtEnd, Follower};
use ftvm_vmm::protocol::live::{AtExit, Lost};
use logging_channel::LossReason;
use logging_channel::entry::Lsn;
use logging_channel::sender::Permit;

use super::bounds::Bounds;
use super::host::{Entry, Follows, Guest, Host, Owner, Process, Runs, Session, claimant};
use crate::defect::Defect;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) bounds: Bounds,
    defect: Option<Defect>,
    pub(super) hosts: Vec<Host>,
    pub(super) record: Record,
    /// All that was ever asked, by which host and run: it may come to the disk server again.
    pub(super) asked: BTreeSet<(usize, u8, Task)>,
    /// What the client has the replies to, as the guest lived through it.
    pub(super) replied: Guest,
    /// In which epoch the last reply left, and from which run.
    last_out: Option<(u64, u8)>,
    runs: u8,
    pub(super) backups: u8,
    pub(super) kills: u8,
    pub(super) cuts: u8,
    failovers: u8,
    /// Who was killed.
    killed: BTreeSet<Claimant>,
    broken: Option<String>,
}

impl World {
    pub(super) fn new(bounds: Bounds, defect: Option<Defect>) -> Self {
        let me = claimant(0, 0);
        let owner = Owner {
            core: Core::holding(me.clone(), 1),
            asked: None,
        };
        let mut hosts = vec![Host::off(); bounds.hosts];
        hosts[0].process = Process::Runs(Box::new(Runs::alone(owner, Guest::new())));
        Self {
            bounds,
            defect,
            hosts,
            record: Record::held(1, me),
            asked: BTreeSet::new(),
            replied: Guest::new(),
            last_out: None,
            runs: 0,
            backups: 0,
            kills: 0,
            cuts: 0,
            failovers: 0,
            killed: BTreeSet::new(),
            broken: None,
        }
    }

    /// The rule that is broken.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(super) fn failovers(&self) -> u8 {
        self.failovers
    }

    /// Nothing can happen any more: what is wrong with that.
    pub(super) fn judge_the_end(&self) -> Option<String> {
        let is_left = self.hosts.iter().any(Host::is_copy);
        let killed = |holder| self.killed.contains(holder);
        if is_left && self.replied.len() < self.bounds.requests {
            Some("progress: there is a copy of the guest, and it does not answer".into())
        } else if !is_left && !self.record.holder.as_ref().is_some_and(killed) {
            Some("the guest is gone, and nobody killed the host that runs it".into())
        } else {
            None
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }

    /// The disk server answers.
    pub(super) fn answer(&mut self, host: usize, run: u8, task: &Task) -> Input {
        let me = claimant(host, run);
        match task {
            Task::Claim { epoch, next } => {
                let request = ClaimRequest {
                    expected: *epoch,
                    claimant: me,
                    next: next.clone(),
                };
                let (mut answer, mut new) = decide(&self.record, &request);
                if self.has(Defect::AnybodyClaims) {
                    (answer, new) = crate::disk_server::to_anybody(&self.record, &request);
                }
                if let Some(new) = new {
                    self.move_on(new, next);
                }
                Input::Claimed(match answer {
                    Answer::Won { epoch } => Claim::Won { epoch },
                    Answer::Lost { epoch, holder } => Claim::Lost { epoch, holder },
                })
            }
            Task::Acknowledge(epoch) => {
                if let Some(new) = acknowledge(&self.record, *epoch, &me) {
                    self.record = new;
                }
                Input::Acknowledged(self.record.clone())
            }
            Task::Watch { .. } | Task::Nothing => Input::Looked(self.record.clone()),
        }
    }

    fn move_on(&mut self, new: Record, next: &Next) {
        let old = std::mem::replace(&mut self.record, new);
        let new = &self.record;
        let member = new.holder == old.holder || old.acknowledged && new.holder == old.backup;
        if *next != Next::Stopped && !member {
            self.fail("rule 1: the primary of a view was not in the one before");
        }
        if self.record.epoch != old.epoch + 1 {
            self.fail("an epoch was passed over");
        }
    }

    /// Something happens to the owner of a host's epoch.
    pub(super) fn tell(&mut self, host: usize, input: Input) {
        let Some(owner) = self.hosts[host].owner() else {
            return;
        };
        match owner.core.take(input) {
            Some(Effect::Alone(_)) => self.alone(host),
            Some(Effect::Admitted(epoch, backup)) => {
                let waits = |(at, it): &(usize, &Host)| {
                    matches!(it.process, Process::Waits(..)) && claimant(*at, it.run) == backup
                };
                let waits = self.hosts.iter().enumerate().find(waits);
                if let Some(with) = waits.map(|(at, it)| (at, it.run)) {
                    self.begin_session(host, with, epoch);
                }
            }
            Some(Effect::Acknowledged(_)) => self.runs(host).live.acknowledged(),
            Some(Effect::Halt(_)) => self.end(host),
            Some(Effect::PeerLost(_) | Effect::Unclear(_)) | None => {}
        }
    }

    pub(super) fn start(&mut self, host: usize, of: usize) {
        self.runs += 1;
        self.backups += 1;
        let run = self.runs;
        self.hosts[host] = Host {
            run,
            process: Process::Waits(of, self.hosts[of].run),
        };
        self.tell(of, Input::Joins(claimant(host, run)));
    }

    fn begin_session(&mut self, host: usize, with: (usize, u8), epoch: u64) {
        let of = (host, self.hosts[host].run);
        let core = Core::following(claimant(with.0, with.1), epoch, claimant(of.0, of.1));
        let runs = self.runs(host);
        runs.live.begin_session();
        runs.session = Some(Session {
            with,
            acked: 0,
            lost: false,
            lease: true,
        });
        let state = Entry::State(runs.guest.clone());
        self.hosts[with.0].process = Process::Follows(Box::new(Follows {
            owner: Owner { core, asked: None },
            follower: Follower::default(),
            guest: Guest::new(),
            of,
            log: Vec::new(),
            received: 0,
            cut: false,
            over: false,
        }));
        let lsn = self.append(host, state);
        let runs = self.runs(host);
        runs.live.state_sent(Lsn(lsn.0 - runs.live.base().0));
    }

    fn append(&mut self, host: usize, entry: Entry) -> Lsn {
        let runs = self.runs(host);
        let lsn = runs.live.append();
        let to = runs
            .session
            .as_ref()
            .filter(|it| !it.lost)
            .map(|it| it.with);
        if let Some(to) = to
            && self.reaches(to)
        {
            self.follows(to.0).log.push(entry);
        }
        lsn
    }

    /// The guest counts the client's next request.
    pub(super) fn count(&mut self, host: usize) {
        let run = self.hosts[host].run;
        let lost = self.runs(host).session.as_ref().is_none_or(|it| it.lost);
        let alone = self.runs(host).live.is_alone();
        self.runs(host).guest.push(run);
        let lsn = match lost && !alone && self.has(Defect::NoEntryWhileContesting) {
            true => Lsn(0),
            false => self.append(host, Entry::Counted(run)),
        };
        let runs = self.runs(host);
        runs.held.push((lsn, runs.guest.len()));
    }

    /// What is due at an exit.
    pub(super) fn exit(&mut self, host: usize) {
        let runs = self.runs(host);
        let Some(session) = runs.session.as_ref().filter(|it| !it.lost) else {
            return;
        };
        match runs.live.at_exit(Lsn(session.acked)) {
            AtExit::Nothing => {}
            AtExit::TakenOver => self.tell(host, Input::TakenOver),
            AtExit::Protected => {
                self.tell(host, Input::Paired);
                self.append(host, Entry::Protected);
            }
        }
    }

    pub(super) fn decide(&mut self, host: usize) {
        let everything = self.has(Defect::OutputBeforeAcknowledgement);
        let all_alone = self.has(Defect::EverythingMayLeaveAlone);
        let runs = self.runs(host);
        if runs.held.is_empty() && !all_alone {
            return;
        }
        let session = runs.session.as_ref().map(|it| Permit {
            up_to: Lsn(it.acked),
            until: None,
        });
        let waits = !runs.live.is_alone() && !runs.live.is_joining();
        let permit = runs.live.permit(session);
        let everything = everything || all_alone && !waits;
        let up_to = if everything {
            Lsn(u64::MAX)
        } else {
            permit.up_to
        };
        runs.decided = Some((up_to, waits && !everything));
    }

    /// A thread does what it has decided.
    pub(super) fn release(&mut self, host: usize) {
        let leased = !self.has(Defect::PermitWithoutLease);
        let runs = self.runs(host);
        let Some((up_to, by_lease)) = runs.decided.take() else {
            return;
        };
        let lease = runs.session.as_ref().is_none_or(|it| it.lease);
        if by_lease && leased && !lease {
            return;
        }
        let leave: Vec<_> = runs
            .held
            .iter()
            .copied()
            .filter(|it| it.0 <= up_to)
            .collect();
        runs.held.retain(|it| it.0 > up_to);
        for (lsn, counted) in leave {
            self.leaves(host, lsn, counted);
        }
    }

    /// A reply leaves.
    fn leaves(&mut self, host: usize, lsn: Lsn, counted: usize) {
        let run = self.hosts[host].run;
        let runs = self.runs(host);
        let (epoch, lived) = (runs.owner.core.epoch(), runs.guest[..counted].to_vec());
        let base = runs.live.base();
        let waits = !runs.live.is_alone() && !runs.live.is_joining();
        let session = runs.session.as_ref().filter(|_| runs.live.is_protected());
        let with = session.map(|it| it.with);
        // What is in the log before the backup protects the guest does not wait: it is in every guest that goes
        // live. A thread may let it out at any later time, as a network might.
        if waits && lsn <= runs.live.permit(None).up_to {
            return self.undoes_nothing(lived);
        }
        if let Some(with) = with
            && self.reaches(with)
            && self.follows(with.0).received < lsn.0 - base.0
        {
            self.fail("rule 2: a reply left that the backup has not got");
        }
        if let Some((last, by)) = self.last_out
            && (epoch < last || epoch == last && by != run)
        {
            self.fail("rule 4: two hosts answer the client");
        }
        self.last_out = Some((epoch, run));
        self.undoes_nothing(lived);
    }

    /// The client gets a reply of a guest that has lived through this.
    fn undoes_nothing(&mut self, lived: Guest) {
        let counted = lived.len();
        let known = self.replied.len().min(counted);
        if self.replied[..known] != lived[..known] {
            self.fail("what the client saw is undone");
        }
        if counted > self.replied.len() {
            self.replied = lived;
        }
    }

    pub(super) fn receive(&mut self, host: usize) {
        let entry = self.follows(host).log.remove(0);
        self.follows(host).received += 1;
        self.execute(host, entry);
    }

    fn execute(&mut self, host: usize, entry: Entry) {
        let follows = self.follows(host);
        let of = follows.of;
        match entry {
            Entry::State(guest) => {
                follows.guest = guest;
                follows.follower.take_over();
            }
            Entry::Protected => follows.follower.protect(),
            Entry::Counted(run) => follows.guest.push(run),
        }
        let guest = follows.guest.clone();
        if self.hosts[of.0].run == of.1
            && let Some(runs) = self.runner(of.0)
            && !runs.guest.starts_with(&guest)
        {
            self.fail("rule 5: a request is in the state and in the log, or in neither");
        }
    }

    /// The primary hears what the backup has.
    pub(super) fn acknowledged(&mut self, host: usize) {
        let follows = self.follows(host);
        let (of, received) = (follows.of.0, follows.received);
        if let Some(session) = &mut self.runs(of).session {
            session.acked = received;
        }
    }

    /// Its lease is over. Of what was sent, so many entries have come.
    pub(super) fn lose_primary(&mut self, host: usize, got: usize) {
        let me = (host, self.hosts[host].run);
        let (of, run) = self.follows(host).of;
        if self.hosts[of].run == run
            && let Process::Runs(runs) = &mut self.hosts[of].process
            && let Some(session) = runs.session.as_mut().filter(|it| it.with == me)
        {
            session.lease = false;
        }
        let mut log = std::mem::take(&mut self.follows(host).log);
        log.truncate(got);
        for entry in log {
            self.execute(host, entry);
        }
        let follows = self.follows(host);
        (follows.cut, follows.over) = (true, true);
        let mut found = follows.follower.at_end(&LossReason::Closed);
        let claims = self.has(Defect::TargetClaims) || self.has(Defect::AnybodyClaims);
        if found == AtEnd::Discard && claims {
            found = AtEnd::Claim;
        }
        if found == AtEnd::Claim {
            self.tell(host, Input::PeerLost("lost".into()));
            self.tell(host, Input::Ready);
        } else {
            self.end(host);
        }
    }

    pub(super) fn lose_backup(&mut self, host: usize) {
        let runs = self.runs(host);
        let lost = runs.live.lose_session();
        let mut with = None;
        if let Some(session) = &mut runs.session {
            session.lost = true;
            with = Some(session.with);
        }
        if let Some((at, run)) = with
            && self.hosts[at].run == run
            && let Process::Follows(follows) = &mut self.hosts[at].process
        {
            follows.cut = true;
        }
        if lost == Lost::Backup {
            self.tell(host, Input::PeerLost("lost".into()));
        }
    }

    /// This host won the next epoch.
    fn alone(&mut self, host: usize) {
        let Process::Follows(follows) = &self.hosts[host].process else {
            return self.runs(host).live.go_on_alone();
        };
        let Follows {
            owner,
            follower,
            guest,
            ..
        } = (**follows).clone();
        if !follower.is_protecting() {
            self.fail("a backup runs the guest that never protected it");
        }
        if !guest.starts_with(&self.replied) {
            self.fail("what the client has a reply to is lost");
        }
        self.failovers += 1;
        self.hosts[host].process = Process::Runs(Box::new(Runs::alone(owner, guest)));
    }

    pub(super) fn kill(&mut self, host: usize) {
        self.kills += 1;
        self.killed.insert(claimant(host, self.hosts[host].run));
        self.end(host);
    }

    fn end(&mut self, host: usize) {
        self.hosts[host].process = Process::Off;
    }

    /// A host that may take a backup.
    pub(super) fn free_primary(&self) -> Option<usize> {
        let free = |host: &usize| self.runner(*host).is_some_and(|it| it.live.is_alone());
        (0..self.hosts.len()).find(free)
    }

    pub(super) fn runner(&self, host: usize) -> Option<&Runs> {
        match &self.hosts[host].process {
            Process::Runs(it) => Some(it),
            _ => None,
        }
    }

    fn runs(&mut self, host: usize) -> &mut Runs {
        match &mut self.hosts[host].process {
            Process::Runs(it) => it,
            other => unreachable!("it does not run the guest: {other:?}"),
        }
    }

    pub(super) fn follows(&mut self, host: usize) -> &mut Follows {
        match &mut self.hosts[host].process {
            Process::Follows(it) => it,
            other => unreachable!("it does not follow: {other:?}"),
        }
    }

    /// Whether what is sent to a backup gets there.
    pub(super) fn reaches(&self, (host, run): (usize, u8)) -> bool {
        let it = &self.hosts[host];
        it.run == run && matches!(&it.process, Process::Follows(it) if !it.cut)
    }

    /// Whether the primary of a backup is still there, and has its session.
    pub(super) fn is_current(&self, host: usize) -> bool {
        let Process::Follows(follows) = &self.hosts[host].process else {
            return false;
        };
        let (of, run) = follows.of;
        self.hosts[of].run == run
            && self.runner(of).is_some_and(|runs| {
                let session = runs.session.as_ref();
                session.is_some_and(|it| it.with == (host, self.hosts[host].run) && !it.lost)
            })
    }
}
