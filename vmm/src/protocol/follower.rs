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

/// What a cold backup does next, which only keeps the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhileCold {
    /// It goes on with that.
    Keep,
    /// It executes what it has kept, up to the end of the log, or for as long as that goes on.
    Replay,
    /// It ends: this host never protected the guest.
    Discard,
    /// It ends: so has the guest.
    End,
}

impl Follower {
    /// This backup has kept all that has come, and has executed nothing: for a reason its session has ended,
    /// or not, as has the guest. It may be asked to execute the log from now on.
    #[must_use]
    pub fn while_cold(
        &self,
        over: Option<&LossReason>,
        guest_ended: bool,
        turn_hot: bool,
    ) -> WhileCold {
        match (over, self.protected) {
            (None, true) if turn_hot => WhileCold::Replay,
            (None, _) => WhileCold::Keep,
            (Some(_), false) => WhileCold::Discard,
            (Some(_), true) if guest_ended => WhileCold::End,
            (Some(_), true) => WhileCold::Replay,
        }
    }

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

    /// Whether it went on with the primary's state, and differs.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.state == State::Differs
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
            // It has not all that it acknowledged.
            (LossReason::NotKept(_), true, _) => AtEnd::Refuse,
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
        let full = LossReason::NotKept("the disk is full".into());
        assert_eq!(it.at_end(&full), AtEnd::Refuse);
    }

    #[test]
    fn a_cold_backup_replays_what_it_protects() {
        let closed = Some(&LossReason::Closed);
        let mut it = Follower::default();
        assert_eq!(it.while_cold(None, false, true), WhileCold::Keep);
        assert_eq!(it.while_cold(closed, false, false), WhileCold::Discard);
        it.protect();
        assert_eq!(it.while_cold(None, true, false), WhileCold::Keep);
        assert_eq!(it.while_cold(None, false, true), WhileCold::Replay);
        assert_eq!(it.while_cold(closed, false, false), WhileCold::Replay);
        assert_eq!(it.while_cold(closed, true, false), WhileCold::End);
    }
}
