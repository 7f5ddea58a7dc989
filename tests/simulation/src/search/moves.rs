//! All that may happen next.

use disk_server::arbiter;
use ftvm_vmm::protocol::epoch::{Input, Task};
use ftvm_vmm::protocol::live::AtExit;
use logging_channel::entry::Lsn;

use super::disk::Disk;
use super::process::{Closing, Entry, Follows, Owner, Process, Role, Run, Runs};
use super::world::World;
use crate::defect::Defect;

/// What happens, and to which run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) run: Option<Run>,
    /// It need not happen: nothing that has to get on may depend on it.
    pub(super) fault: bool,
}

/// States that may be next.
struct Next<'a> {
    world: &'a World,
    found: Vec<(Step, World)>,
}

impl Next<'_> {
    fn push(&mut self, what: &'static str, run: Run, change: impl FnOnce(&mut World)) {
        self.add(what, Some(run), false, change);
    }

    fn fault(&mut self, what: &'static str, run: Run, change: impl FnOnce(&mut World)) {
        self.add(what, Some(run), true, change);
    }

    fn add(
        &mut self,
        what: &'static str,
        run: Option<Run>,
        fault: bool,
        change: impl FnOnce(&mut World),
    ) {
        let mut world = self.world.clone();
        change(&mut world);
        world.forget();
        if world != *self.world {
            self.found.push((Step { what, run, fault }, world));
        }
    }
}

impl World {
    /// All that may be next.
    pub(super) fn successors(&self) -> Vec<(Step, Self)> {
        let mut next = Next {
            world: self,
            found: Vec::new(),
        };
        for process in &self.processes {
            match &process.role {
                Role::Idle(Some(proposal)) => {
                    let run = process.run;
                    next.fault("does what is proposed", run, |w| w.connect(run, proposal));
                }
                Role::Idle(None) => {}
                Role::Waits { of, .. } => self.waiting(process, *of, &mut next),
                Role::Follows(it) => self.following(process, it, &mut next),
                Role::Runs(it) => self.running(process, it, &mut next),
            }
            self.asking(process, &mut next);
            let run = process.run;
            if self.happened.kills < self.bounds.kills {
                next.fault("is killed", run, |w| w.kill(run));
            }
            if self.happened.abandons < self.bounds.abandons
                && process.owner.is_some()
                && process.closing.is_none()
            {
                next.fault("cannot go on with the guest", run, |w| w.abandon(run));
            }
        }
        self.operator(&mut next);
        self.disk_server(&mut next);
        self.view_service(&mut next);
        next.found
    }

    /// Who starts backups, and the guest anew.
    fn operator(&self, next: &mut Next<'_>) {
        let free = self.processes.len() < self.bounds.hosts;
        let starts = free && self.happened.backups < self.bounds.backups;
        if starts && self.service.is_some() {
            next.add("an idle host starts", None, true, Self::start_idle);
        } else if starts {
            for it in &self.processes {
                if it.runs().is_some_and(|it| it.live.is_alone()) && self.is_confirmed(it.run) {
                    next.fault("is given a backup", it.run, |w| w.start(it.run));
                }
            }
        }
        if self.bounds.force && !self.happened.forced {
            next.add(
                "the guest is started anew by force",
                None,
                true,
                Self::force,
            );
        }
    }

    fn waiting(&self, process: &Process, of: Run, next: &mut Next<'_>) {
        let run = process.run;
        let asks = self.process(of).and_then(|it| it.owner.as_ref());
        let asks = asks.is_some_and(|it| it.claims() || !it.inbox.is_empty());
        if process.is_let_in_by(of) && asks {
            let bound = self.bounds.sent_away;
            if bound.is_none_or(|bound| self.happened.sent_away < bound) {
                next.push("is sent away for now", run, |w| {
                    w.happened.sent_away += u8::from(bound.is_some());
                    w.send_away(run);
                });
            }
        } else if process.is_let_in_by(of) {
            next.push("asks to join once more", run, |w| w.comes(run, of));
        } else if self.lets_in(of) && self.is_confirmed(of) {
            next.push("asks to join", run, |w| w.comes(run, of));
        }
        let primary = self.runner(of);
        if primary.is_none_or(|it| !it.live.is_alone() || it.ended) || !self.is_confirmed(of) {
            next.push("gives up", run, |w| w.give_up(run));
        }
    }

    fn following(&self, process: &Process, it: &Follows, next: &mut Next<'_>) {
        let run = process.run;
        let reads = !it.over || self.has(Defect::AcknowledgementAfterLoss);
        let gone = process.closing == Some(Closing::GivesUp);
        if reads && !gone && !it.log.is_empty() {
            next.push("gets an entry", run, |w| w.receive(run));
        }
        if !it.over && (it.silent || !self.is_served(run)) {
            next.push("takes its primary for lost", run, |w| w.lose_primary(run));
        }
        if !it.over && !it.silent && self.is_served(run) && self.happened.cuts < self.bounds.cuts {
            next.fault("and its primary do not hear each other", run, |w| {
                w.happened.cuts += 1;
                w.follows(run).silent = true;
            });
        }
        if process.closing.is_some() {
            return;
        }
        if it.cold {
            return self.keeping(run, it, next);
        }
        if !it.queue.is_empty() {
            next.push("executes an entry", run, |w| w.execute(run, false));
        }
        let differs = self.happened.differences < self.bounds.differences;
        if differs
            && let Some(entry) = it.queue.first()
            && (it.follower.executes() && *entry != Entry::Shutdown
                || matches!(entry, Entry::State(_)))
        {
            next.fault("differs", run, |w| w.execute(run, true));
        }
        if it.over && it.queue.is_empty() && self.claims_nothing(process) {
            next.push("has replayed all", run, |w| w.at_end(run));
        }
    }

    /// It has not said yet that it is ready.
    fn claims_nothing(&self, process: &Process) -> bool {
        process
            .owner
            .as_ref()
            .is_some_and(|it| it.asked.is_none() && it.inbox.is_empty())
    }

    /// A cold backup.
    fn keeping(&self, run: Run, it: &Follows, next: &mut Next<'_>) {
        if it.over {
            next.push("replays what it has kept", run, |w| w.replay(run, false));
        } else if it.follower.is_protecting() {
            next.fault("turns hot", run, |w| w.replay(run, true));
        }
        let renewed = |it: &Entry| matches!(it, Entry::Renewed(_));
        let comes = it.queue.iter().chain(&it.log).any(renewed);
        if comes && !it.memory && !it.over {
            next.push("gets the memory of the state anew", run, |w| {
                w.follows(run).memory = true;
            });
        }
        let complete = it.memory || self.has(Defect::RenewedWithoutMemory);
        if complete && it.queue.iter().any(renewed) {
            next.push("goes by the state anew", run, |w| w.renew(run));
        }
        let allowed = self.bounds.cold.unwrap_or(0);
        if it.follower.is_protecting() && !it.over && self.happened.renewals < allowed {
            next.fault("asks for the state anew", run, |w| w.ask_renewal(run));
        }
    }

    fn running(&self, process: &Process, it: &Runs, next: &mut Next<'_>) {
        let run = process.run;
        let works = process.closing.is_none() && !it.ended && !self.leaves_next(run);
        if works && self.may_hand_over(process, it) {
            next.fault("hands its guest over", run, |w| w.hand_over(run));
        }
        if self.leaves_next(run) {
            next.push("does not wait for its backup any longer", run, |w| {
                w.tell(run, Input::Overdue);
            });
        }
        if works {
            if it.guest.len() == self.replied.len() && it.guest.len() < self.bounds.requests {
                next.push("counts a request", run, |w| w.count(run));
            }
            if let Some(session) = it.session() {
                let executed = Lsn(session.heard.received);
                if session.heard.needs_state
                    || it.live.clone().at_exit(executed, false) != AtExit::Nothing
                {
                    next.push("comes to an exit", run, |w| w.exit(run));
                }
                if session.transfer {
                    next.push("sends the state", run, |w| w.send_state(run));
                }
                if session.heard.renew {
                    next.push("sends the state anew", run, |w| w.send_renewal(run));
                }
            }
            if self.bounds.ends && !self.happened.ended {
                next.fault("comes to its guest's end", run, |w| w.end_guest(run));
            }
        }
        if works && let Some(disk) = &self.server.disk {
            let again = self.happened.reconnects < self.bounds.reconnects;
            if !disk.has(run) {
                next.push("opens its disk", run, |w| w.open_disk(run));
            } else if disk.is_open(run) && again {
                next.fault("loses the connection to its disk", run, |w| {
                    w.happened.reconnects += 1;
                    w.open_disk(run);
                });
            }
            if disk.is_open(run) && self.happened.writes < self.bounds.writes {
                next.fault("writes its disk", run, |w| w.write_disk(run));
            }
        }
        if process.closing.is_none() && self.has_ended(run) {
            next.push("takes leave", run, |w| w.finish(run));
        }
        if it.decided.is_some() {
            next.push("lets out what was decided on", run, |w| w.release(run));
        } else if !it.held.is_empty() {
            next.push("lets replies out", run, |w| {
                w.decide_leave(run);
                w.release(run);
            });
        }
        if self.bounds.late_threads
            && (!it.held.is_empty() || self.has(Defect::EverythingMayLeaveAlone))
        {
            next.push("decides what may leave", run, |w| w.decide_leave(run));
        }
        if let Some(session) = it.session() {
            // The run's first session was that of view 2.
            if self.has(Defect::LifeOfAnotherSession) && session.view > 2 {
                next.fault("hears the backup before", run, |w| w.revive(run));
            }
            if session.heard != session.coming {
                next.push("hears its backup", run, |w| w.hear_report(run));
            }
            let backup = self.follower(session.with);
            if backup.is_none_or(|it| it.silent || it.over || it.of != run) {
                next.push("takes its backup for lost", run, |w| w.lose_backup(run));
            }
        }
    }

    /// What a run asks the disk server, and hears.
    fn asking(&self, process: &Process, next: &mut Next<'_>) {
        let run = process.run;
        let Some(owner) = &process.owner else { return };
        let task = owner.core.clone().task();
        let asked = owner.asked.as_ref();
        if let Some(asked) = asked.filter(|it| owner.claims() || **it == task) {
            return match &owner.answer {
                Some(answer) => next.push("hears the disk server", run, |w| {
                    w.hear(run, answer.clone());
                }),
                None if self.bounds.late_answers => {
                    next.push("is answered", run, |w| {
                        let answer = w.read_and_decide(run, asked);
                        if let Some(owner) = w.owner(run) {
                            owner.answer = answer;
                        }
                    });
                }
                None => next.push("hears the disk server", run, |w| {
                    if let Some(answer) = w.read_and_decide(run, asked) {
                        w.hear(run, answer);
                    }
                }),
            };
        }
        match task {
            Task::Watch { .. } => self.looking(run, owner, next),
            Task::Nothing => next.push("ends", run, |w| w.remove(run)),
            Task::Claim {
                next: arbiter::Next::Stopped,
                ..
            } if self.has(Defect::EndUntold) => next.push("ends", run, |w| w.remove(run)),
            task => next.push("asks the disk server", run, |w| {
                w.server.asked.insert((run, task));
                let late = w.has(Defect::LookOlderThanClaim);
                if let Some(owner) = w.owner(run) {
                    owner.asked = Some(owner.core.task());
                    owner.answer = None;
                    if !late {
                        owner.look = None;
                    }
                }
            }),
        }
    }

    fn looking(&self, run: Run, owner: &Owner, next: &mut Next<'_>) {
        if self.has(Defect::NeverLooks) {
            return;
        }
        if !self.bounds.late_answers {
            let mut core = owner.core.clone();
            let looked = Input::Looked(self.server.record.clone());
            let effect = core.take(looked.clone());
            if effect.is_some() || core != owner.core {
                next.push("looks at the record", run, |w| w.tell(run, looked));
            }
            return;
        }
        if owner.look.is_some() {
            next.push("hears what the record was", run, |w| {
                let look = w.owner(run).and_then(|it| it.look.take());
                if let Some(record) = look {
                    w.tell(run, Input::Looked(record));
                }
            });
        } else {
            next.push("is told the record", run, |w| {
                let record = w.server.record.clone();
                if let Some(owner) = w.owner(run) {
                    owner.look = Some(record);
                }
            });
        }
    }

    /// What comes to the disk server late, or again; and its end.
    fn disk_server(&self, next: &mut Next<'_>) {
        let asked = self.server.asked.iter();
        for (run, task) in asked.filter(|(run, task)| self.would_change(*run, task)) {
            next.fault("has asked, which comes late", *run, |w| {
                w.decide(*run, task);
            });
        }
        let writes = self.server.disk.as_ref().map_or(0, Disk::writes);
        for write in 0..writes {
            next.add("a worker gets on with a write", None, false, |w| {
                w.work(write)
            });
        }
        if self.happened.crashes < self.bounds.crashes && self.can_lose() {
            next.add(
                "the disk server dies and starts again",
                None,
                true,
                Self::crash,
            );
        }
    }

    /// Hosts ping, or do not.
    fn view_service(&self, next: &mut Next<'_>) {
        let (Some(silences), Some(service)) = (self.bounds.silences, &self.service) else {
            return;
        };
        for process in self.processes.iter().filter(|it| self.may_ping(it)) {
            next.fault("pings", process.run, |w| w.ping(process.run));
        }
        let answered = service.pingers.iter().filter(|(_, it)| it.is_answered());
        for (run, _) in answered {
            next.fault("hears the view service", *run, |w| w.hear_service(*run));
        }
        for ping in self.late_pings() {
            next.add("a ping comes late", None, true, |w| w.late_ping(ping));
        }
        if self.happened.silences < silences {
            next.add("all pings stay away", None, true, Self::silence);
        }
    }
}
