//! What the disk server decides, and the questions of processes to it.

use disk_server::arbiter::{
    Answer, Claim, ClaimRequest, Claimant, Next, Record, acknowledge, decide,
};
use ftvm_vmm::protocol::epoch::{Effect, Input, Task};
use ftvm_vmm::protocol::follower::Follower;
use ftvm_vmm::protocol::rights::{Repeat, repeats};

use super::disk::Disk;
use super::process::{Closing, Process, Role, Run, Runs, claimant};
use super::service::Service;
use super::world::World;
use crate::defect::Defect;
use crate::disk_server::to_anybody;
use crate::rule::Rule;

/// Who starts the guest anew.
pub(super) fn operator() -> Claimant {
    "operator/1".parse().expect("a claimant")
}

fn request(run: Run, epoch: u64, next: &Next) -> ClaimRequest {
    ClaimRequest {
        expected: epoch,
        claimant: claimant(run),
        next: next.clone(),
    }
}

impl World {
    fn decided(&self, request: &ClaimRequest) -> (Answer, Option<Record>) {
        match self.has(Defect::AnybodyClaims) {
            true => to_anybody(&self.server.record, request),
            false => decide(&self.server.record, request),
        }
    }

    /// Whether what a run asks would change anything now.
    pub(super) fn would_change(&self, run: Run, task: &Task) -> bool {
        match task {
            Task::Claim { epoch, next } => self.decided(&request(run, *epoch, next)).1.is_some(),
            Task::Acknowledge(epoch) => {
                acknowledge(&self.server.record, *epoch, &claimant(run)).is_some()
            }
            Task::Watch { .. } | Task::Nothing => false,
        }
    }

    /// The disk server decides what a run asks. Gives the answer, unless there is none: then it is asked
    /// again.
    pub(super) fn decide(&mut self, run: Run, task: &Task) -> Option<Input> {
        match task {
            Task::Claim { epoch, next } => {
                let request = request(run, *epoch, next);
                let (answer, new) = self.decided(&request);
                if let Some(new) = new {
                    self.move_on(&request, new);
                }
                Some(Input::Claimed(match answer {
                    // It is decided, and asked for again.
                    Answer::Won { epoch } if !self.is_clear(epoch, &request.holder()) => {
                        return None;
                    }
                    Answer::Won { epoch } => Claim::Won { epoch },
                    Answer::Lost { epoch, holder } => Claim::Lost { epoch, holder },
                }))
            }
            Task::Acknowledge(epoch) => {
                if let Some(new) = acknowledge(&self.server.record, *epoch, &claimant(run)) {
                    self.write(new);
                }
                Some(Input::Acknowledged(self.server.record.clone()))
            }
            Task::Watch { .. } | Task::Nothing => None,
        }
    }

    /// A run reads the record, and claims only what may be won.
    pub(super) fn read_and_decide(&mut self, run: Run, task: &Task) -> Option<Input> {
        if let Task::Claim { epoch, next } = task {
            let holder = self.owner(run)?.core.holder().clone();
            let me = claimant(run);
            match repeats(&self.server.record, (*epoch, &holder), &me, next) {
                Repeat::NotYet => return None,
                Repeat::Lost(claim) => return Some(Input::Claimed(claim)),
                Repeat::Now => {}
            }
        }
        self.decide(run, task)
    }

    fn write(&mut self, record: Record) {
        if !self.has(Defect::AnswerBeforeWrite) {
            self.server.written = record.clone();
        }
        self.server.record = record;
    }

    fn move_on(&mut self, request: &ClaimRequest, new: Record) {
        let old = self.server.record.clone();
        if !self.is_member(&request.claimant) {
            let what = "a run that is no member of the view moves it on";
            self.fail(Rule::PrimaryWasMember, what);
        }
        if new.epoch != old.epoch + 1 {
            self.fail(Rule::PrimaryWasMember, "a view was passed over");
        }
        // Whoever ends the guest leaves nobody behind that could go on with it.
        let left = |it: &&Process| {
            it.is_copy() && old.acknowledged && old.backup == Some(claimant(it.run))
        };
        if request.next == Next::Stopped
            && !self.happened.ended
            && self.processes.iter().any(|it| left(&it))
        {
            let what = "the guest is stopped, and its backup could go on";
            self.fail(Rule::Progress, what);
        }
        self.server.last_primary = old.holder.filter(|_| new.is_stopped());
        self.write(new);
    }

    /// The guest is started anew, whoever runs it.
    pub(super) fn force(&mut self) {
        self.happened.forced = true;
        let request = ClaimRequest {
            expected: self.server.record.epoch,
            claimant: operator(),
            next: Next::Start,
        };
        let old = &self.server.record;
        if let (_, Some(new)) = decide(old, &request) {
            if !old.is_stopped() {
                self.server.last_primary = old.holder.clone();
            }
            self.write(new);
        }
    }

    /// What it has not written is lost, and all its answers.
    pub(super) fn crash(&mut self) {
        self.happened.crashes += 1;
        self.server.record = self.server.written.clone();
        if let Some(disk) = &mut self.server.disk {
            *disk = Disk::new(&self.server.record);
        }
        for owner in self.processes.iter_mut().filter_map(|it| it.owner.as_mut()) {
            owner.answer = None;
            owner.look = None;
        }
        if let Some(service) = &mut self.service {
            service.crash();
        }
    }

    /// Whether there is something that a crash would lose.
    pub(super) fn can_lose(&self) -> bool {
        self.server.record != self.server.written
            || self.service.as_ref().is_some_and(Service::has_memory)
            || self.server.disk.as_ref().is_some_and(Disk::can_lose)
            || (self.processes.iter())
                .filter_map(|it| it.owner.as_ref())
                .any(|it| it.answer.is_some() || it.look.is_some())
    }

    /// Something happens to the owner of a run's epoch.
    pub(super) fn tell(&mut self, run: Run, input: Input) {
        if let Some(owner) = self.owner(run) {
            owner.inbox.push(input);
            self.drive(run);
        }
    }

    /// An answer comes.
    pub(super) fn hear(&mut self, run: Run, answer: Input) {
        if let Some(owner) = self.owner(run) {
            (owner.asked, owner.answer) = (None, None);
            owner.inbox.insert(0, answer);
            self.drive(run);
        }
    }

    /// One claim at a time: what happens meanwhile waits for its answer.
    fn drive(&mut self, run: Run) {
        while let Some(owner) = self.owner(run)
            && !owner.claims()
            && !owner.inbox.is_empty()
        {
            let input = owner.inbox.remove(0);
            if let Some(effect) = owner.core.take(input) {
                self.follow(run, effect);
            }
        }
    }

    fn follow(&mut self, run: Run, effect: Effect) {
        match effect {
            Effect::Alone(epoch) => self.alone(run, epoch),
            Effect::Admitted(epoch, backup) => {
                let waits = |it: &&Process| it.is_let_in_by(run) && claimant(it.run) == backup;
                let backup = self.processes.iter().find(waits).map(|it| it.run);
                if let Some(backup) = backup {
                    self.begin_session(run, backup, epoch);
                }
            }
            Effect::Acknowledged(epoch) => {
                let runs = self.runs(run);
                if runs.session().is_some_and(|it| it.view == epoch) {
                    runs.live.acknowledged();
                }
            }
            Effect::Halt(_) | Effect::HandedOver(..) => self.halt(run),
            Effect::Unclear(_) if self.has(Defect::AnswerBeforeWrite) => {}
            Effect::Unclear(_) => {
                let what = "a run takes an answer of before for a server that lost its state";
                self.fail(Rule::Progress, what);
            }
            Effect::PeerLost(_) | Effect::Leaves => {}
        }
    }

    /// The record says that another one may run the guest.
    fn halt(&mut self, run: Run) {
        let record = &self.server.record;
        if record.holder == Some(claimant(run)) {
            self.fail(Rule::Progress, "a run halts that holds the view");
        } else if record.is_stopped() && !self.happened.forced {
            let runs = self.process(run).is_some_and(|it| it.runs().is_some());
            let epoch = self.owner(run).map_or(0, |it| it.core.epoch());
            if runs && self.server.record.epoch == epoch + 1 {
                let what = "a run halts whose guest was ended by its own backup";
                self.fail(Rule::Progress, what);
            }
        }
        self.remove(run);
    }

    /// A run ends for good once all is told.
    pub(super) fn close(&mut self, run: Run, how: Closing) {
        let Some(process) = self.process_mut(run) else {
            return;
        };
        process.closing = Some(how);
        self.tell(
            run,
            match how {
                Closing::InOrder => Input::End,
                Closing::GivesUp => Input::Abandon,
            },
        );
    }

    /// This run won the next epoch.
    fn alone(&mut self, run: Run, epoch: u64) {
        let record = &self.server.record;
        if record.epoch < epoch || record.epoch == epoch && record.holder != Some(claimant(run)) {
            let what = "a run takes itself for the primary of a view that it did not win";
            self.fail(Rule::PrimaryWasMember, what);
        }
        let Some(process) = self.process_mut(run) else {
            return;
        };
        let gives_up = process.closing.is_some();
        match &mut process.role {
            Role::Runs(it) => it.go_on_alone(),
            Role::Follows(it) if !gives_up => {
                let guest = std::mem::take(&mut it.guest);
                let follower = it.follower.clone();
                process.role = Role::Runs(Runs::alone(guest));
                self.goes_live(run, &follower);
            }
            Role::Follows(_) | Role::Waits { .. } | Role::Idle(_) => {}
        }
    }

    fn goes_live(&mut self, run: Run, follower: &Follower) {
        self.happened.failovers += 1;
        if !follower.is_protecting() {
            let what = "a backup goes live that never protected the guest";
            self.fail(Rule::NothingUndone, what);
        }
        if !follower.executes() {
            self.fail(Rule::NothingUndone, "a backup goes live that differs");
        }
        let seen = self.replied.clone();
        if !self.runs(run).guest.starts_with(&seen) {
            let what = "what the client has a reply to is lost";
            self.fail(Rule::NothingUndone, what);
        }
    }
}
