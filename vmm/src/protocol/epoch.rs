//! What a host decides about the epoch of its guest, without clock, thread or connection.
//!
//! ```text
//!   what happens ──take──▶ Core ──▶ effects: tell, go on alone, halt
//!                           │
//!                          task ──▶ what to ask the disk server; its answer is the next thing that
//!                                   happens
//! ```
//!
//! Only one claim is open at a time, and what happens meanwhile waits for its answer: the end of a
//! guest cannot overtake a claim that its host has made. A look at the record stops nothing, and is
//! given up when a claim is to be made: its answer would be older than the claim's.
//!
//! A primary that hands the guest over to its backup ends the session by itself, and does not claim for a
//! while. Everything else is as after any loss: its backup claims, and if that has not won in time, so does
//! the primary. There is one more way to lose the epoch in peace, and none to have it.

use disk_server::arbiter::{Claim, Claimant, Next, Record};

use super::rights::{belongs, went_back};

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A backup is there, and is to be taken into the next epoch. Only where the guest has none.
    Joins(Claimant),
    /// That backup has taken over the guest's state.
    TakenOver,
    /// What the disk server has since it was told so.
    Acknowledged(Record),
    /// This host's guest is protected by a session: from now on the other host may claim the next
    /// epoch. A host that went on alone may be paired again.
    Paired,
    /// The other host is lost, for this reason.
    PeerLost(String),
    /// The backup of this view is to go on with the guest: this host is about to end the session with it.
    HandOver(u64),
    /// That backup has had its time.
    Overdue,
    /// The log ended in order: the other host ends too.
    LogEnded,
    /// This host's guest is as it should be: it may go on alone.
    Ready,
    /// It is not.
    Unfit,
    /// Something says that the epoch may be over: look.
    Doubt,
    /// The guest has ended; what is left is to tell the other host.
    GuestEnded,
    /// All is done: the guest ended in order.
    End,
    /// This host cannot go on with the guest.
    Abandon,
    /// What the disk server has.
    Looked(Record),
    /// How the claim that was to be made ended.
    Claimed(Claim),
}

/// What is to be asked of the disk server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// The record: now and then, or soon because there is a doubt.
    Watch {
        /// Soon.
        doubt: bool,
    },
    /// The epoch after this one, for this.
    Claim {
        /// This one.
        epoch: u64,
        /// To run the guest alone or with a backup, or for nobody.
        next: Next,
    },
    /// That it notes that the backup of this epoch has taken over.
    Acknowledge(u64),
    /// Nothing any more.
    Nothing,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The other host is lost.
    PeerLost(String),
    /// This host has this epoch now, with this backup.
    Admitted(u64, Claimant),
    /// The backup of this epoch may be told that it protects the guest: it can claim the next one.
    Acknowledged(u64),
    /// This host is the only one that runs the guest, in this epoch.
    Alone(u64),
    /// The next epoch is left to the backup, until that has had its time. Whether it has won is to be looked
    /// at soon, and again.
    Leaves,
    /// The backup has won the epoch that this host left to it.
    HandedOver(u64, Claimant),
    /// The disk server's answer is none: it does not know of this epoch.
    Unclear(String),
    /// This host lost the right to run the guest.
    Halt(String),
}

/// The other host of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    /// There was none yet.
    None,
    Present,
    Lost,
    /// It ends with the log.
    Ended,
}

/// How the right to run alone stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Contest {
    None,
    /// To be claimed.
    Wanted,
    /// The claim may be with the disk server: its answer has to be known.
    Asked,
    Won,
}

/// How it stands with a guest that is to be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum HandOver {
    No,
    /// The next epoch is left to the backup.
    Leaves,
    /// No longer.
    Overdue,
}

/// How far it is with the backup that joins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Join {
    /// There is none, or it is done.
    None,
    /// It is to be admitted.
    Wanted(Claimant),
    /// The claim may be with the disk server: its answer has to be known.
    Asked(Claimant),
    /// It belongs to the epoch.
    Admitted(Claimant),
    /// It has taken over, and the disk server is to know.
    TakenOver,
}

/// How this host ends with its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    InOrder,
    Abandoned,
}

/// What a host knows of the epoch of its guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Core {
    me: Claimant,
    /// The epoch in which the guest runs.
    epoch: u64,
    /// Who won it.
    holder: Claimant,
    peer: Peer,
    /// Whether this host's guest may go on alone, once that is known.
    fit: Option<bool>,
    contest: Contest,
    hand_over: HandOver,
    join: Join,
    doubt: bool,
    guest_ended: bool,
    end: Option<End>,
    /// There is nothing to decide any more.
    closed: bool,
}

impl Core {
    /// A primary that has won `epoch`, and has no backup yet.
    #[must_use]
    pub fn holding(me: Claimant, epoch: u64) -> Self {
        Self::new(me.clone(), epoch, me, Peer::None, Some(true))
    }

    /// The backup of a primary that holds `epoch` as `holder`.
    #[must_use]
    pub fn following(me: Claimant, epoch: u64, holder: Claimant) -> Self {
        Self::new(me, epoch, holder, Peer::Present, None)
    }

    fn new(me: Claimant, epoch: u64, holder: Claimant, peer: Peer, fit: Option<bool>) -> Self {
        Self {
            me,
            epoch,
            holder,
            peer,
            fit,
            contest: Contest::None,
            hand_over: HandOver::No,
            join: Join::None,
            doubt: false,
            guest_ended: false,
            end: None,
            closed: false,
        }
    }

    /// The epoch in which the guest runs.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who won it.
    #[must_use]
    pub fn holder(&self) -> &Claimant {
        &self.holder
    }

    /// Whether the next epoch is left to the backup: nobody asks for it here.
    #[must_use]
    pub fn leaves_next(&self) -> bool {
        self.hand_over == HandOver::Leaves
    }

    fn holds(&self) -> bool {
        self.holder == self.me
    }

    /// What is to be asked now. A claim that was given out counts as made.
    pub fn task(&mut self) -> Task {
        if self.closed {
            return Task::Nothing;
        }
        match (self.contest, &self.join, self.end) {
            (Contest::Wanted | Contest::Asked, ..) => {
                self.contest = Contest::Asked;
                self.claim(Next::Alone)
            }
            (_, Join::Wanted(backup), None) | (_, Join::Asked(backup), _) => {
                let backup = backup.clone();
                self.join = Join::Asked(backup.clone());
                self.claim(Next::With(backup))
            }
            (_, _, Some(_)) if !self.is_left_to_peer() => self.claim(Next::Stopped),
            (_, Join::TakenOver, None) => Task::Acknowledge(self.epoch),
            _ => Task::Watch { doubt: self.doubt },
        }
    }

    fn claim(&self, next: Next) -> Task {
        let epoch = self.epoch;
        Task::Claim { epoch, next }
    }

    /// Of a guest that ends on both hosts the primary tells, and the backup only where it lost that:
    /// until it has heard the goodbye, it has to wait for the one or the other.
    fn is_left_to_peer(&self) -> bool {
        !self.holds() && self.peer == Peer::Present
    }

    /// Something happens. Gives what follows from it.
    pub fn take(&mut self, input: Input) -> Option<Effect> {
        if self.closed {
            return None;
        }
        match input {
            Input::Joins(backup) => return self.joins(backup),
            Input::TakenOver => {
                if let Join::Admitted(_) = self.join {
                    self.join = Join::TakenOver;
                }
            }
            Input::Acknowledged(record) => return self.acknowledged(&record),
            Input::Paired => {
                self.peer = Peer::Present;
                self.hand_over = HandOver::No;
                if self.contest == Contest::Won {
                    self.contest = Contest::None;
                }
            }
            Input::PeerLost(reason) => return self.peer_lost(reason),
            Input::HandOver(view) => return self.leave_to_backup(view),
            Input::Overdue => return self.overdue(),
            Input::LogEnded if self.peer == Peer::Present => {
                self.closed = self.end.is_some() && self.is_left_to_peer();
                self.peer = Peer::Ended;
            }
            Input::Ready => {
                self.fit = Some(true);
                self.contest_if_due();
            }
            Input::Unfit => self.fit = Some(false),
            Input::Doubt => self.doubt = true,
            Input::GuestEnded => self.guest_ended = true,
            Input::End => self.end(End::InOrder),
            Input::Abandon => self.end(End::Abandoned),
            Input::Looked(record) => return self.looked(&record),
            Input::Claimed(claim) => return self.claimed(claim),
            Input::LogEnded => {}
        }
        None
    }

    /// One at a time: the claim with another one has to be answered before. One that was admitted, and has
    /// not heard of it, belongs to the epoch already.
    fn joins(&mut self, backup: Claimant) -> Option<Effect> {
        if self.join == Join::Admitted(backup.clone()) {
            return Some(Effect::Admitted(self.epoch, backup));
        }
        let alone = self.holds() && self.peer != Peer::Present && self.end.is_none();
        let asked = matches!(self.join, Join::Asked(_));
        if alone && !asked && matches!(self.contest, Contest::None | Contest::Won) {
            self.join = Join::Wanted(backup);
        }
        None
    }

    fn claimed(&mut self, claim: Claim) -> Option<Effect> {
        if self.contest == Contest::Asked {
            return self.contested(claim);
        }
        match std::mem::replace(&mut self.join, Join::None) {
            Join::Asked(backup) => self.admitted(claim, backup),
            _ => self.stopped(claim),
        }
    }

    fn admitted(&mut self, claim: Claim, backup: Claimant) -> Option<Effect> {
        match claim {
            Claim::Won { epoch } => {
                self.epoch = epoch;
                self.join = Join::Admitted(backup.clone());
                Some(Effect::Admitted(epoch, backup))
            }
            Claim::Lost { epoch, holder } => self.lost(belongs(epoch, holder.as_ref())),
        }
    }

    fn acknowledged(&mut self, record: &Record) -> Option<Effect> {
        if record.epoch == self.epoch && record.acknowledged && self.join == Join::TakenOver {
            self.join = Join::None;
            return Some(Effect::Acknowledged(self.epoch));
        }
        self.looked(record)
    }

    /// Only to the backup that protects the guest, of the view that was meant.
    fn leave_to_backup(&mut self, view: u64) -> Option<Effect> {
        let protected = self.holds() && self.peer == Peer::Present && self.join == Join::None;
        let settled = self.contest == Contest::None && self.end.is_none();
        if !(protected && settled && view == self.epoch) || self.hand_over == HandOver::Leaves {
            return None;
        }
        self.hand_over = HandOver::Leaves;
        Some(Effect::Leaves)
    }

    fn overdue(&mut self) -> Option<Effect> {
        if self.hand_over != HandOver::Leaves {
            return None;
        }
        self.hand_over = HandOver::Overdue;
        self.contest_if_due();
        let reason = "it did not go on in time with the guest that was handed over to it";
        (self.peer == Peer::Lost).then(|| Effect::PeerLost(reason.into()))
    }

    fn peer_lost(&mut self, reason: String) -> Option<Effect> {
        if self.peer != Peer::Present {
            return None;
        }
        self.peer = Peer::Lost;
        if self.end.is_some() {
            return None; // the guest has ended: nothing is left to go on with
        }
        self.contest_if_due();
        (self.hand_over != HandOver::Leaves).then_some(Effect::PeerLost(reason))
    }

    fn contest_if_due(&mut self) {
        let due = self.peer == Peer::Lost && self.fit == Some(true) && self.end.is_none();
        if due && self.hand_over != HandOver::Leaves && self.contest == Contest::None {
            self.contest = Contest::Wanted;
        }
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        match (end, self.contest) {
            // What was claimed has to be known, to be given back.
            (_, Contest::Asked | Contest::Won) | (End::InOrder, Contest::Wanted) => {}
            (End::InOrder, Contest::None) => {
                self.closed = !self.holds() && self.peer == Peer::Ended;
            }
            (End::Abandoned, Contest::None) if matches!(self.join, Join::Asked(_)) => {}
            (End::Abandoned, Contest::None | Contest::Wanted) => {
                // With a backup it is the backup's turn now, and the epoch has to stay for that.
                self.contest = Contest::None;
                let mine_alone = matches!(self.peer, Peer::None | Peer::Ended);
                self.closed = !(self.holds() && mine_alone);
            }
        }
    }

    /// Another one has this epoch, which is not before the next one.
    fn replaced(&mut self, epoch: u64, holder: Option<Claimant>) -> Option<Effect> {
        let next = self.epoch.checked_add(1) == Some(epoch);
        let left = self.hand_over != HandOver::No && next && self.end.is_none();
        match holder {
            Some(holder) if left && !holder.is_stopped() => {
                self.closed = true;
                Some(Effect::HandedOver(epoch, holder))
            }
            holder => self.lost(belongs(epoch, holder.as_ref())),
        }
    }

    fn lost(&mut self, reason: String) -> Option<Effect> {
        self.closed = true;
        // One that gives up has its own reason for that.
        (self.end != Some(End::Abandoned)).then_some(Effect::Halt(reason))
    }

    fn looked(&mut self, record: &Record) -> Option<Effect> {
        self.doubt = false;
        if self.end.is_some() {
            return None;
        }
        let holder = record.holder.as_ref();
        if record.epoch < self.epoch {
            return Some(Effect::Unclear(went_back(record.epoch, self.epoch)));
        }
        let as_known = record.epoch == self.epoch && holder == Some(&self.holder);
        let mine = record.epoch > self.epoch && holder == Some(&self.me);
        // Told by the other host of the pair: then the log ends, or this host finds that one lost.
        // Whoever stopped a later epoch had won one before. A backup that has taken over, and is not told
        // that it protects the guest, knows of its end as well.
        let paired = self.peer != Peer::None && self.contest != Contest::Won;
        let next = self.epoch.checked_add(1) == Some(record.epoch);
        let stopped = next && is_stopped(holder) && (paired || self.guest_ended);
        if as_known || mine || stopped {
            return None;
        }
        self.replaced(record.epoch, holder.cloned())
    }

    fn contested(&mut self, claim: Claim) -> Option<Effect> {
        match claim {
            Claim::Won { epoch } => {
                self.epoch = epoch;
                self.holder = self.me.clone();
                self.contest = Contest::Won;
                self.hand_over = HandOver::No;
                Some(Effect::Alone(epoch))
            }
            // The other host knew of the guest's end, and told.
            Claim::Lost { holder, .. }
                if is_stopped(holder.as_ref()) && (self.guest_ended || self.end.is_some()) =>
            {
                self.closed = true;
                None
            }
            Claim::Lost { epoch, holder } => self.replaced(epoch, holder),
        }
    }

    fn stopped(&mut self, claim: Claim) -> Option<Effect> {
        match claim {
            Claim::Lost { epoch, holder } if self.holds() && !is_stopped(holder.as_ref()) => {
                self.lost(belongs(epoch, holder.as_ref()))
            }
            Claim::Won { .. } | Claim::Lost { .. } => {
                self.closed = true;
                None
            }
        }
    }
}

fn is_stopped(holder: Option<&Claimant>) -> bool {
    holder.is_some_and(Claimant::is_stopped)
}

#[cfg(test)]
mod tests {
    use disk_server::arbiter::STOPPED;

    use super::*;

    #[test]
    fn a_backup_that_is_not_told_that_it_protects_may_tell_of_the_guests_end() {
        let claimant = |name: &str| name.parse::<Claimant>().expect("a claimant");
        let mut core = Core::holding(claimant("hosta/1"), 4);
        core.take(Input::Joins(claimant("hostb/1")));
        assert!(matches!(core.task(), Task::Claim { epoch: 4, .. }));
        core.take(Input::Claimed(Claim::Won { epoch: 5 }));
        core.take(Input::TakenOver);
        assert_eq!(core.task(), Task::Acknowledge(5));
        let stopped = Record::held(6, claimant(STOPPED));
        let told = Input::Acknowledged(stopped);
        let runs = core.clone().take(told.clone());
        assert!(matches!(runs, Some(Effect::Halt(_))), "{runs:?}");
        core.take(Input::GuestEnded);
        assert_eq!(core.take(told), None);
        core.take(Input::End);
        let (epoch, next) = (5, Next::Stopped);
        assert_eq!(core.task(), Task::Claim { epoch, next });
        let (epoch, holder) = (6, Some(claimant(STOPPED)));
        let lost = Input::Claimed(Claim::Lost { epoch, holder });
        assert_eq!(core.take(lost), None);
        assert_eq!(core.task(), Task::Nothing);
    }
}
