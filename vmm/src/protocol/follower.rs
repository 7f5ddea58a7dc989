//! A backup, from the first entry of its session to the end of the log.

use logging_channel::LossReason;

/// How a backup stands with the state of its primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum State {
    /// It has not got it, or not all of it.
    #[default]
    Incomplete,
    /// It has taken it over, and goes on with the log.
    Complete,
    /// It went on, and differs.
    Differs,
}

/// What a backup knows of its own right to go live.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Follower {
    state: State,
    protected: bool,
}

/// What a backup does at the end of its log, once it has replayed all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AtEnd {
    /// It claims the next epoch.
    Claim,
    /// It claims nothing and ends: the primary went on without it, or the guest is gone with the
    /// primary, because this host never protected it.
    Discard,
    /// It claims nothing and ends: it is not the primary's guest any more.
    Refuse,
    /// The primary ended the log, and its guest.
    End,
}

impl Follower {
    /// The transfer of the whole state was taken over.
    pub fn take_over(&mut self) {
        self.state = State::Complete;
    }

    /// The entry was executed by which the primary says that it lets nothing out without this host.
    pub fn protect(&mut self) {
        self.protected = true;
    }

    /// A check of the replay failed: the whole state is needed again.
    pub fn differ(&mut self) {
        self.state = State::Differs;
    }

    /// Whether this host has what it needs to execute entries, and does not pass over them.
    #[must_use]
    pub fn executes(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether the primary lets nothing out without this host.
    #[must_use]
    pub fn is_protecting(&self) -> bool {
        self.protected
    }

    /// All of the log was replayed, and its session has ended for this reason.
    #[must_use]
    pub fn at_end(&self, reason: &LossReason) -> AtEnd {
        match (reason, self.protected, self.state) {
            (LossReason::Orderly, ..) => AtEnd::End,
            (_, false, _) => AtEnd::Discard,
            (_, true, State::Complete) => AtEnd::Claim,
            (_, true, State::Incomplete | State::Differs) => AtEnd::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backup_that_protects_and_is_equal_claims() {
        let mut it = Follower::default();
        assert_eq!(it.at_end(&LossReason::Closed), AtEnd::Discard);
        it.take_over();
        assert_eq!(it.at_end(&LossReason::Closed), AtEnd::Discard);
        it.protect();
        assert_eq!(it.at_end(&LossReason::Closed), AtEnd::Claim);
        it.differ();
        assert_eq!(it.at_end(&LossReason::Closed), AtEnd::Refuse);
        it.take_over();
        assert_eq!(it.at_end(&LossReason::Closed), AtEnd::Claim);
        assert_eq!(it.at_end(&LossReason::Orderly), AtEnd::End);
    }
}
