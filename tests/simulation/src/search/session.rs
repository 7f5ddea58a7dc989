//! The session of a primary and its backup: it begins, its log comes, is kept and executed, and one of the
//! two loses the other.

use ftvm_vmm::protocol::epoch::{Core, Input};
use ftvm_vmm::protocol::follower::{AtEnd, Follower, WhileCold};
use ftvm_vmm::protocol::live::Lost;
use ftvm_vmm::protocol::rights::right_of_another;
use logging_channel::LossReason;
use logging_channel::entry::Lsn;
use logging_channel::handshake::Title;
use logging_channel::session::Confirmation;

use super::process::{
    Closing, Entry, Follows, Guest, Owner, Process, Report, Role, Run, Session, claimant,
};
use super::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

impl World {
    /// Whether the disk server has a run as the one that it says it is.
    pub(super) fn is_confirmed(&self, of: Run) -> bool {
        let owner = self.process(of).and_then(|it| it.owner.as_ref());
        owner.is_some_and(|it| {
            let title = Title {
                epoch: it.core.epoch(),
                holder: claimant(of).as_str().to_owned(),
            };
            right_of_another(&self.server.record, &title) == Confirmation::Held
        })
    }

    /// An operator starts a backup of this run.
    pub(super) fn start(&mut self, of: Run) {
        let run = self.runs;
        self.runs += 1;
        self.happened.backups += 1;
        let is_let_in = false;
        let waits = Role::Waits { of, is_let_in };
        self.processes.push(Process::new(run, waits));
        if self.lets_in(of) {
            self.comes(run, of);
        }
    }

    /// A backup is ready to join this run's guest.
    pub(super) fn comes(&mut self, run: Run, of: Run) {
        if self.has(Defect::SessionBeforeAdmission) {
            let epoch = self.owner(of).map_or(0, |it| it.core.epoch());
            return self.begin_session(of, run, epoch + 1);
        }
        if let Some(process) = self.process_mut(run) {
            let is_let_in = true;
            process.role = Role::Waits { of, is_let_in };
        }
        let joins = Input::Joins(claimant(run));
        // To hear it twice would change nothing.
        if self.owner(of).is_some_and(|it| !it.inbox.contains(&joins)) {
            self.tell(of, joins);
        }
    }

    /// Whether a backup may come to this run: one at a time.
    pub(super) fn lets_in(&self, of: Run) -> bool {
        let runs = self.runner(of);
        runs.is_some_and(|it| it.live.is_alone() && !it.ended)
            && !self.processes.iter().any(|it| it.is_let_in_by(of))
    }

    /// The disk server has not answered in time: the backup has to come again.
    pub(super) fn send_away(&mut self, run: Run) {
        let process = self.process_mut(run);
        if let Some(Role::Waits { is_let_in, .. }) = process.map(|it| &mut it.role) {
            *is_let_in = false;
        }
    }

    pub(super) fn begin_session(&mut self, of: Run, with: Run, view: u64) {
        let record = &self.server.record;
        let (epoch, backup) = (record.epoch, record.backup.clone());
        if epoch < view || epoch == view && backup != Some(claimant(with)) {
            let what = "a backup takes the log of a view to which it does not belong";
            self.fail(Rule::LogOfOwnView, what);
        }
        let runs = self.runs(of);
        runs.live.begin_session();
        runs.session = Some(Session::new(with, view, runs.guest.len()));
        let cold = self.bounds.cold.is_some();
        if let Some(process) = self.process_mut(with) {
            process.owner = Some(Owner::new(Core::following(
                claimant(with),
                view,
                claimant(of),
            )));
            process.role = Role::Follows(Follows {
                follower: Follower::default(),
                guest: Guest::new(),
                of,
                view,
                log: Vec::new(),
                queue: Vec::new(),
                has_state: false,
                received: 0,
                silent: false,
                over: false,
                cold,
                memory: false,
            });
        }
    }

    /// An entry of the log, which goes to the backup if there is one. Gives its number.
    pub(super) fn append(&mut self, run: Run, entry: Entry) -> Lsn {
        let runs = self.runs(run);
        let lsn = runs.live.append();
        if let Some(with) = runs.session().map(|it| it.with) {
            self.send(run, with, entry);
        }
        lsn
    }

    pub(super) fn send(&mut self, run: Run, with: Run, item: Entry) {
        if self.hears(with, run) {
            self.follows(with).log.push(item);
        }
    }

    /// The state as it is now.
    pub(super) fn send_state(&mut self, run: Run) {
        let early = self.has(Defect::StateTakenEarly);
        let runs = self.runs(run);
        let mut state = runs.guest.clone();
        if let Some(session) = &mut runs.session {
            session.transfer = false;
            if early {
                state.truncate(session.began);
            }
        }
        let lsn = self.append(run, Entry::State(state));
        let live = &mut self.runs(run).live;
        live.state_sent(Lsn(lsn.0 - live.base().0));
    }

    /// The state anew, whose memory comes beside the log.
    pub(super) fn send_renewal(&mut self, run: Run) {
        let runs = self.runs(run);
        let state = runs.guest.clone();
        if let Some(session) = &mut runs.session {
            session.heard.renew = false;
            session.coming.renew = false;
        }
        self.append(run, Entry::Renewed(state));
    }

    /// Whether a backup reads what this run sends it.
    pub(super) fn hears(&self, backup: Run, of: Run) -> bool {
        let follows = self.follower(backup);
        follows.is_some_and(|it| {
            it.of == of && (!it.over || self.has(Defect::AcknowledgementAfterLoss))
        })
    }

    /// Whether the primary of a backup is still there, and has not lost it.
    pub(super) fn is_served(&self, backup: Run) -> bool {
        let of = self.follower(backup).map(|it| it.of);
        let runs = of.and_then(|of| self.runner(of));
        let session = runs.and_then(|it| it.session());
        session.is_some_and(|it| it.with == backup)
    }

    /// The primary's part of a session that may be over for it.
    fn session_of(&mut self, backup: Run) -> Option<&mut Session> {
        let of = self.follower(backup)?.of;
        let Some(Role::Runs(runs)) = self.process_mut(of).map(|it| &mut it.role) else {
            return None;
        };
        runs.session.as_mut().filter(|it| it.with == backup)
    }

    /// The next entry comes to a backup.
    pub(super) fn receive(&mut self, run: Run) {
        let lag = self.bounds.lag;
        let follows = self.follows(run);
        let over = follows.over;
        let entry = follows.log.remove(0);
        if entry == Entry::Goodbye {
            follows.over = true;
            return self.tell(run, Input::LogEnded);
        }
        follows.received += 1;
        let cold = follows.cold;
        if cold && entry == Entry::Protected {
            follows.follower.protect();
        }
        if over {
            // It is not in that view any more.
            self.fail(
                Rule::LogOfOwnView,
                "a backup accepts log of a primary that it has lost",
            );
        }
        let accepted = match &entry {
            Entry::State(guest) => Some(guest.len()),
            Entry::Counted(number, _) => Some(*number),
            _ => None,
        };
        self.follows(run).queue.push(entry);
        if let (Some(accepted), Some(session)) = (accepted, self.session_of(run)) {
            session.accepted = accepted;
        }
        self.report(run);
        if !lag && !cold {
            self.execute(run, false);
        }
    }

    /// What a backup has is on its way to its primary.
    fn report(&mut self, run: Run) {
        let Some(follows) = self.follower(run) else {
            return;
        };
        let received = follows.received;
        let executed = match follows.cold {
            true => received,
            false => received - follows.queue.len() as u64,
        };
        if let Some(session) = self.session_of(run) {
            let coming = session.coming;
            session.coming = Report {
                received,
                executed: executed.max(coming.executed),
                ..coming
            };
        }
    }

    /// A backup executes the next entry that it has, or finds that it differs there.
    pub(super) fn execute(&mut self, run: Run, differs: bool) {
        let follows = self.follows(run);
        let entry = follows.queue.remove(0);
        let executes = follows.follower.executes();
        if differs {
            if executes {
                follows.follower.differ();
            }
            if let Some(session) = self.session_of(run) {
                session.coming.needs_state = true;
            }
            self.happened.differences += 1;
        }
        let follows = self.follows(run);
        match &entry {
            Entry::State(guest) if !differs => {
                follows.guest = guest.clone();
                follows.has_state = true;
                follows.follower.take_over();
            }
            Entry::Counted(number, by) if executes => {
                follows.guest.push(*by);
                if follows.guest.len() != *number {
                    let what = "a request is in the state and in the log, or in neither";
                    self.fail(Rule::InputBesideTransfer, what);
                }
            }
            Entry::Protected => {
                follows.follower.protect();
                if !follows.has_state {
                    let what = "a backup protects a guest whose state it never got";
                    self.fail(Rule::InputBesideTransfer, what);
                }
            }
            Entry::Shutdown if executes => {
                return self.close(run, Closing::InOrder);
            }
            Entry::Shutdown => return self.refuse(run),
            _ => {}
        }
        self.report(run);
    }

    /// The memory of the state anew has come: the log before it is of no use.
    pub(super) fn renew(&mut self, run: Run) {
        let early = self.has(Defect::RenewedWithoutMemory);
        let follows = self.follows(run);
        let renewed = |it: &Entry| matches!(it, Entry::Renewed(_));
        let Some(at) = follows.queue.iter().position(renewed) else {
            return;
        };
        let before = follows.queue.drain(..=at).next_back();
        if let Some(Entry::Renewed(guest)) = before {
            let guest = match early && !follows.memory {
                true => Guest::new(),
                false => guest,
            };
            follows.queue.insert(0, Entry::State(guest));
            follows.memory = false;
        }
    }

    /// A backup takes its primary for lost: its lease is over. What had come until then, it has.
    pub(super) fn lose_primary(&mut self, run: Run) {
        if let Some(session) = self.session_of(run) {
            session.lease = false;
        }
        let keeps = self.has(Defect::AcknowledgementAfterLoss);
        let forgets = self.has(Defect::ClaimBeforeReplay);
        let follows = self.follows(run);
        follows.over = true;
        if !keeps {
            follows.log.clear();
        }
        if forgets && follows.follower.is_protecting() {
            follows.queue.clear();
        }
        self.tell(run, Input::PeerLost("lost".into()));
    }

    /// A backup has replayed all that it has of a log that is over.
    pub(super) fn at_end(&mut self, run: Run) {
        let (targets, differing) = (
            self.has(Defect::TargetClaims) || self.has(Defect::AnybodyClaims),
            self.has(Defect::DivergedClaims),
        );
        let Some(follows) = self.follower(run) else {
            return;
        };
        match follows.follower.at_end(&LossReason::Closed) {
            AtEnd::Discard if targets => self.tell(run, Input::Ready),
            AtEnd::Refuse if differing => self.tell(run, Input::Ready),
            AtEnd::Claim => self.tell(run, Input::Ready),
            AtEnd::Discard | AtEnd::End => self.close(run, Closing::GivesUp),
            AtEnd::Refuse => self.refuse(run),
        }
    }

    /// A backup must not go on with the guest.
    fn refuse(&mut self, run: Run) {
        self.tell(run, Input::Unfit);
        self.close(run, Closing::GivesUp);
    }

    /// A cold backup executes what it has kept, if it is to.
    pub(super) fn replay(&mut self, run: Run, turn_hot: bool) {
        let follows = self.follows(run);
        let ended = follows.queue.last() == Some(&Entry::Shutdown);
        let over = follows.over.then_some(&LossReason::Closed);
        match follows.follower.while_cold(over, ended, turn_hot) {
            WhileCold::Keep => {}
            WhileCold::Replay => {
                follows.cold = false;
                let kept = follows.queue.len();
                for _ in 0..kept {
                    self.execute(run, false);
                }
            }
            WhileCold::Discard => self.close(run, Closing::GivesUp),
            WhileCold::End => self.close(run, Closing::InOrder),
        }
    }

    /// A primary takes its backup for lost.
    pub(super) fn lose_backup(&mut self, run: Run) {
        let runs = self.runs(run);
        if let Some(session) = &mut runs.session {
            session.lost = true;
        }
        match runs.live.lose_session() {
            Lost::Join => runs.session = None,
            Lost::Backup => self.tell(run, Input::PeerLost("lost".into())),
        }
    }

    /// A primary hears what its backup has.
    pub(super) fn hear_report(&mut self, run: Run) {
        if let Some(session) = &mut self.runs(run).session {
            session.heard = session.coming;
        }
    }

    /// A primary takes something for a sign of life of its backup.
    pub(super) fn revive(&mut self, run: Run) {
        if let Some(session) = &mut self.runs(run).session {
            session.lease = true;
        }
    }

    /// A cold backup has too much of the log.
    pub(super) fn ask_renewal(&mut self, run: Run) {
        if let Some(session) = self.session_of(run) {
            session.coming.renew = true;
            self.happened.renewals += 1;
        }
    }

    /// A host cannot go on with the guest.
    pub(super) fn abandon(&mut self, run: Run) {
        self.happened.abandons += 1;
        let copy = self.process(run).is_some_and(Process::is_copy);
        // One without a backup that could go on tells the disk server that the guest has ended.
        let tells = self.runner(run).is_some_and(|it| !it.waits());
        if let Some(process) = self.process_mut(run) {
            process.closing = Some(Closing::GivesUp);
        }
        self.happened.lost |= copy && !tells && !self.is_left();
        self.close(run, Closing::GivesUp);
    }
}
