//! A host that runs the guest: alone, with a backup that joins, or protected by one.
//!
//! ```text
//!             session begins        taken over, which the disk
//!                                   server knows, said at an exit
//!   alone ─────────────────▶ joining ─────────────────▶ protected
//!     ▲                         │                            │ session lost
//!     ├──────session lost───────┘                            ▼
//!     └────────────────claim won──────────────────────── contesting
//! ```
//!
//! A host that hands its guest over contests as well: its backup finds it lost at once, and may go live in the
//! same moment, so no lease lets anything out.
//!
//! Entries are numbered through: an entry of the guest is the session's base plus its number in the
//! session, and while there is no session they are counted and not kept. What is decided while the guest
//! is alone is decided up to the last entry that there is then, and lets out nothing that comes later.

use std::time::Instant;

use logging_channel::entry::Lsn;
use logging_channel::sender::Permit;

/// How a host stands that runs its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Standing {
    /// Outputs leave at once.
    Alone,
    /// They still do: a backup takes over the state, which was sent whole with this entry of the
    /// session, once it was.
    Joining { sent: Option<Lsn>, taken: Taken },
    /// They leave when the backup has their entries. The guest had so many entries when that began.
    Protected { since: Lsn },
    /// They do not leave: the backup may be the one that goes on. What it acknowledged may by the lease, as
    /// long as it cannot have gone live; there is none where it was asked to.
    Contesting { since: Lsn, leased: bool },
}

/// What is known of a backup that takes over the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Taken {
    /// Nothing yet.
    No,
    /// It has, and the disk server is told.
    Told,
    /// The disk server knows.
    Known,
}

/// What an exit is to the backup that joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AtExit {
    /// Nothing.
    Nothing,
    /// It has taken over: the owner of the epoch has the disk server know.
    TakenOver,
    /// Protection begins here: the owner of the epoch has to be told, before the backup is by the next
    /// entry of the log.
    Protected,
}

/// What a session that is lost means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// A backup that had not taken over: the guest goes on as before, and nobody claims anything.
    Join,
    /// One that may go live: the next epoch has to be claimed before the guest goes on alone.
    Backup,
}

/// A host that runs its guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Live {
    /// The guest's entries so far.
    appended: Lsn,
    /// Those from before the session.
    base: Lsn,
    standing: Standing,
}

impl Live {
    /// One whose guest is alone, with so many entries behind it.
    #[must_use]
    pub fn alone(appended: Lsn) -> Self {
        Self {
            appended,
            base: appended,
            standing: Standing::Alone,
        }
    }

    /// The guest's entry that is appended now.
    pub fn append(&mut self) -> Lsn {
        self.appended = self.appended.next();
        self.appended
    }

    /// A session begins: what is appended from now on is its log. Only where the guest is alone.
    pub fn begin_session(&mut self) {
        self.base = self.appended;
        self.standing = Standing::Joining {
            sent: None,
            taken: Taken::No,
        };
    }

    /// The whole state is being sent, perhaps because the backup could not use it the last time.
    pub fn state_begun(&mut self) {
        if let Standing::Joining { sent, .. } = &mut self.standing {
            *sent = None;
        }
    }

    /// The whole state has been sent, with this entry of the session. Entry 0 is of a backup that begins
    /// together with the guest.
    pub fn state_sent(&mut self, commit: Lsn) {
        if let Standing::Joining {
            sent: sent @ None, ..
        } = &mut self.standing
        {
            *sent = Some(commit);
        }
    }

    /// The guest is at an exit, and the backup has executed the session's log so far. One that wants the state
    /// could not use what it executed: asked for that after it was asked how far it is.
    pub fn at_exit(&mut self, executed: Lsn, wants_state: bool) -> AtExit {
        let Standing::Joining {
            sent: Some(commit),
            taken,
        } = &mut self.standing
        else {
            return AtExit::Nothing;
        };
        if executed < *commit || wants_state {
            return AtExit::Nothing;
        }
        match taken {
            Taken::No => {
                *taken = Taken::Told;
                AtExit::TakenOver
            }
            Taken::Told => AtExit::Nothing,
            Taken::Known => {
                let since = self.appended;
                self.standing = Standing::Protected { since };
                AtExit::Protected
            }
        }
    }

    /// The disk server knows that the backup that joins has taken over.
    pub fn acknowledged(&mut self) {
        if let Standing::Joining {
            taken: taken @ Taken::Told,
            ..
        } = &mut self.standing
        {
            *taken = Taken::Known;
        }
    }

    /// The backup is to go on with the guest, and learns that this host is lost to it as soon as the session
    /// ends. Whether there is one that can. Everything that may leave has to have left.
    pub fn hand_over(&mut self) -> bool {
        let Standing::Protected { since } = self.standing else {
            return false;
        };
        let leased = false;
        self.standing = Standing::Contesting { since, leased };
        true
    }

    /// The session is lost. Says what that means.
    pub fn lose_session(&mut self) -> Lost {
        match self.standing {
            Standing::Alone | Standing::Joining { .. } => {
                self.standing = Standing::Alone;
                Lost::Join
            }
            Standing::Protected { since } => {
                let leased = true;
                self.standing = Standing::Contesting { since, leased };
                Lost::Backup
            }
            Standing::Contesting { .. } => Lost::Backup,
        }
    }

    /// The next epoch was won, or the backup has ended the log with this host.
    pub fn go_on_alone(&mut self) {
        self.standing = Standing::Alone;
    }

    /// What may leave: by the last `session`'s permit, in that one's numbers, or because the guest is
    /// alone.
    #[must_use]
    pub fn permit(&self, session: Option<Permit>) -> Permit {
        let (since, leased) = match self.standing {
            Standing::Alone | Standing::Joining { .. } => {
                return Permit {
                    up_to: self.appended,
                    until: None,
                };
            }
            Standing::Protected { since } => (since, true),
            Standing::Contesting { since, leased } => (since, leased),
        };
        // Without a session nothing leaves that is later.
        let before = Permit {
            up_to: since,
            until: None,
        };
        let committed = session
            .filter(|_| leased)
            .map(|permit| permit.after(self.base.0));
        committed
            .filter(|permit| permit.up_to > since)
            .unwrap_or(before)
    }

    /// Whether this host may say where the guest is, which is in no log: it is alone, or by the last
    /// `session`'s permit it is certain that the backup has not gone live.
    #[must_use]
    pub fn may_announce(&self, session: Option<Permit>, now: Instant) -> bool {
        match self.standing {
            Standing::Alone | Standing::Joining { .. } => true,
            Standing::Contesting { leased: false, .. } => false,
            Standing::Protected { .. } | Standing::Contesting { .. } => {
                let until = session.and_then(|permit| permit.until);
                until.is_some_and(|until| now < until)
            }
        }
    }

    /// The guest's entries so far.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Those from before the last session.
    #[must_use]
    pub fn base(&self) -> Lsn {
        self.base
    }

    /// There is no session.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.standing == Standing::Alone
    }

    /// A session has begun, and its backup has not got the state.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        matches!(self.standing, Standing::Joining { .. })
    }

    /// A backup has the state, and the output rule holds.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        matches!(self.standing, Standing::Protected { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn acked(lsn: u64) -> Option<Permit> {
        Some(Permit {
            up_to: Lsn(lsn),
            until: Some(Instant::now()),
        })
    }

    #[test]
    fn who_may_have_been_replaced_does_not_say_where_the_guest_is() {
        let now = Instant::now();
        let lease = |until| {
            let up_to = Lsn(9);
            Some(Permit { up_to, until })
        };
        let (valid, over) = (lease(Some(now + Duration::from_secs(1))), lease(Some(now)));
        let mut host = Live::alone(Lsn(0));
        assert!(host.may_announce(None, now) && host.may_announce(over, now));
        host.begin_session();
        assert!(host.may_announce(over, now), "it joins");
        host.state_sent(Lsn(0));
        host.at_exit(Lsn(0), false);
        host.acknowledged();
        assert_eq!(host.at_exit(Lsn(0), false), AtExit::Protected);
        for _ in 0..2 {
            assert!(host.may_announce(valid, now));
            assert!(!host.may_announce(over, now) && !host.may_announce(None, now));
            assert_eq!(
                host.lose_session(),
                Lost::Backup,
                "the same when it contests"
            );
        }
        host.go_on_alone();
        assert!(host.may_announce(over, now));
    }

    #[test]
    fn what_is_decided_alone_lets_out_nothing_of_a_session() {
        let mut host = Live::alone(Lsn(40));
        host.append();
        let alone = host.permit(None);
        assert_eq!((alone.up_to, alone.until), (Lsn(41), None));
        host.begin_session();
        let commit = host.append();
        host.state_sent(Lsn(commit.0 - host.base().0));
        assert_eq!(host.permit(acked(0)).up_to, Lsn(42), "it joins");
        assert_eq!(host.at_exit(Lsn(0), false), AtExit::Nothing);
        host.acknowledged();
        assert_eq!(
            host.at_exit(Lsn(1), true),
            AtExit::Nothing,
            "it was of no use"
        );
        assert_eq!(host.at_exit(Lsn(1), false), AtExit::TakenOver);
        assert_eq!(
            host.at_exit(Lsn(1), false),
            AtExit::Nothing,
            "nobody knows that"
        );
        host.acknowledged();
        assert_eq!(host.at_exit(Lsn(1), false), AtExit::Protected);
        let output = host.append();
        assert!(alone.up_to < output);
        assert_eq!(host.permit(acked(1)).up_to, Lsn(42));
        assert_eq!(host.permit(acked(2)).up_to, output);
        assert!(host.permit(acked(2)).until.is_some());
    }

    #[test]
    fn by_no_lease_anything_leaves_a_host_that_has_handed_over() {
        let mut host = Live::alone(Lsn(0));
        assert!(!host.hand_over(), "to whom?");
        host.append();
        host.begin_session();
        assert!(!host.hand_over(), "it has nothing");
        host.state_sent(Lsn(0));
        host.at_exit(Lsn(0), false);
        host.acknowledged();
        host.at_exit(Lsn(0), false);
        let output = host.append();
        assert_eq!(host.permit(acked(1)).up_to, output);
        assert!(host.hand_over());
        assert_eq!(host.lose_session(), Lost::Backup);
        let permit = host.permit(acked(1));
        assert_eq!((permit.up_to, permit.until), (Lsn(1), None));
        let lease = Some(Permit {
            up_to: Lsn(9),
            until: Some(Instant::now() + Duration::from_secs(60)),
        });
        assert!(!host.may_announce(lease, Instant::now()));
        host.go_on_alone();
        assert_eq!(host.permit(acked(1)).up_to, output);
    }

    #[test]
    fn a_join_that_is_cut_is_no_loss_and_one_that_is_over_is() {
        let mut host = Live::alone(Lsn(0));
        host.begin_session();
        assert_eq!(host.lose_session(), Lost::Join);
        assert!(host.is_alone());
        host.begin_session();
        host.append();
        host.state_sent(Lsn(1));
        assert_eq!(host.at_exit(Lsn(1), false), AtExit::TakenOver);
        // It could not use it after all, and gets it once more.
        host.state_begun();
        host.acknowledged();
        host.append();
        host.state_sent(Lsn(2));
        assert_eq!(host.at_exit(Lsn(1), false), AtExit::Nothing);
        assert_eq!(host.at_exit(Lsn(2), false), AtExit::Protected);
        assert_eq!(host.lose_session(), Lost::Backup);
        let held = host.append();
        assert!(host.permit(acked(1)).up_to < held);
        host.go_on_alone();
        assert_eq!(host.permit(acked(1)).up_to, held);
    }
}
