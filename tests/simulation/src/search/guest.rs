//! The guest on the host that runs it: its requests, its exits, its replies, its end.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ftvm_vmm::protocol::epoch::Input;
use ftvm_vmm::protocol::live::{AtExit, Live};
use ftvm_vmm::protocol::outputs::HeldOutputs;
use logging_channel::entry::Lsn;
use logging_channel::protocol::Permit;

use super::process::{Closing, Entry, Guest, Run, Runs};
use super::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

/// Until when there is a lease, in a search in which time is no more than that.
static LEASE_END: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What no permit is.
const EVERYTHING: Permit = Permit {
    up_to: Lsn(u64::MAX),
    until: None,
};

impl Runs {
    /// No backup protects the guest: what waited may leave.
    pub(super) fn go_on_alone(&mut self) {
        self.live.go_on_alone();
        self.session = None;
    }

    /// Outputs leave only by an acknowledgement.
    pub(super) fn waits(&self) -> bool {
        !self.live.is_alone() && !self.live.is_joining()
    }

    /// Entries of a time that is over differ in nothing but their numbers, as long as no thread has one
    /// in its hand. They begin behind others: a session's are not the guest's.
    pub(super) fn forget(&mut self) {
        if self.live.is_alone() && self.decided.is_none() && self.live.appended() > Lsn(1) {
            self.live = Live::alone(Lsn(1));
            let mut held = HeldOutputs::default();
            while let Some((_, counted)) = self.held.next(EVERYTHING, *LEASE_END) {
                held.hold(Lsn(1), counted);
            }
            self.held = held;
        }
    }
}

impl World {
    /// The guest counts the client's next request.
    pub(super) fn count(&mut self, run: Run) {
        let runs = self.runs(run);
        let (lost, waits) = (runs.session().is_none(), runs.waits());
        runs.guest.push(run);
        let number = runs.guest.len();
        let lsn = match lost && waits && self.has(Defect::NoEntryWhileContesting) {
            true => Lsn(0),
            false => self.append(run, Entry::Counted(number, run)),
        };
        self.runs(run).held.hold(lsn, number);
    }

    /// What is due at an exit.
    pub(super) fn exit(&mut self, run: Run) {
        let heeds = !self.has(Defect::ProtectedWithoutState);
        let received = self.has(Defect::TakenOverBeforeExecution);
        let runs = self.runs(run);
        let counted = runs.guest.len();
        let Some(session) = runs.session.as_mut().filter(|it| !it.lost) else {
            return;
        };
        let executed = match received {
            true => session.heard.received,
            false => session.heard.executed,
        };
        let wants_state = session.heard.needs_state && heeds;
        match runs.live.at_exit(Lsn(executed), wants_state) {
            AtExit::Nothing if wants_state => {
                session.heard.needs_state = false;
                session.coming.needs_state = false;
                session.transfer = true;
                runs.live.state_begun();
            }
            AtExit::Nothing => {}
            AtExit::TakenOver => self.tell(run, Input::TakenOver),
            AtExit::Protected => {
                session.protects = Some(counted);
                self.tell(run, Input::Paired);
                self.append(run, Entry::Protected);
            }
        }
    }

    fn permit(&self, runs: &Runs) -> Permit {
        let session = runs.session.as_ref().map(|it| Permit {
            up_to: Lsn(it.heard.received),
            until: Some(*LEASE_END),
        });
        let permit = runs.live.permit(session);
        if self.has(Defect::OutputBeforeAcknowledgement)
            || self.has(Defect::EverythingMayLeaveAlone) && !runs.waits()
        {
            EVERYTHING
        } else if self.has(Defect::PermitWithoutLease) {
            Permit {
                until: None,
                ..permit
            }
        } else {
            permit
        }
    }

    /// A thread decides what may leave.
    pub(super) fn decide_leave(&mut self, run: Run) {
        if let Some(runs) = self.runner(run) {
            let permit = self.permit(runs);
            self.runs(run).decided = Some(permit);
        }
    }

    /// What it has decided leaves.
    pub(super) fn release(&mut self, run: Run) {
        let runs = self.runs(run);
        let Some(permit) = runs.decided.take() else {
            return;
        };
        let lease = runs.session.as_ref().is_none_or(|it| it.lease);
        let now = match lease {
            true => *LEASE_END,
            false => *LEASE_END + Duration::from_nanos(1),
        };
        while let Some((_, counted)) = self.runs(run).held.next(permit, now) {
            self.leaves(run, counted);
        }
    }

    /// The reply to the request of this number leaves.
    fn leaves(&mut self, run: Run, counted: usize) {
        let Some(runs) = self.runner(run) else { return };
        let lived = runs.guest[..counted].to_vec();
        let session = runs.session.as_ref();
        let protects = session.and_then(|it| it.protects);
        let accepted = session.map_or(0, |it| it.accepted);
        let waits = runs.waits();
        // What was counted before the backup protects the guest is in every guest that goes live. It may
        // leave at any later time, as a network might let it.
        let from_before = protects.is_some_and(|before| counted <= before);
        if waits && !from_before && accepted < counted {
            let what = "a reply leaves that the backup has not accepted";
            self.fail(Rule::OutputAfterAcceptance, what);
        }
        if !self.server.is_primary(run) && !from_before {
            let what = "a reply leaves a host that is not the primary any more";
            self.fail(Rule::OnlyPrimaryActs, what);
        }
        self.replies(lived);
    }

    /// The client gets a reply of a guest that has lived through this.
    fn replies(&mut self, lived: Guest) {
        let known = self.replied.len().min(lived.len());
        if self.replied[..known] != lived[..known] {
            self.fail(Rule::NothingUndone, "what the client saw is undone");
        }
        if lived.len() > self.replied.len() {
            self.replied = lived;
        }
    }

    /// The guest ends in order.
    pub(super) fn end_guest(&mut self, run: Run) {
        self.happened.ended = true;
        self.runs(run).ended = true;
        self.append(run, Entry::Shutdown);
        self.tell(run, Input::GuestEnded);
    }

    /// Whether the backup has all of the log of a guest that has ended, or there is none to wait for.
    pub(super) fn has_ended(&self, run: Run) -> bool {
        self.runner(run).is_some_and(|runs| {
            let all = runs.live.appended().0 - runs.live.base().0;
            let session = runs.session();
            runs.ended
                && session.is_none_or(|it| runs.live.is_joining() || it.heard.received >= all)
        })
    }

    /// The primary of a guest that has ended takes leave of its backup, and tells the disk server.
    pub(super) fn finish(&mut self, run: Run) {
        let runs = self.runs(run);
        let protected = runs.live.is_protected();
        if let Some(with) = runs.session().map(|it| it.with) {
            runs.go_on_alone();
            self.send(run, with, Entry::Goodbye);
            if protected {
                self.tell(run, Input::LogEnded);
            }
        }
        self.close(run, Closing::InOrder);
    }
}
