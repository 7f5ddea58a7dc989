//! How far a transfer of the whole state is, and for whom it is.

use std::time::Duration;

use super::rounds::Rounds;
use crate::sources::log_sink::Sent;
use crate::sources::pace::Pace;
use crate::sources::repairs::Repairs;
use crate::state::MemorySender;

/// The transfers of the whole state.
pub(super) struct Whole {
    pub(super) stage: Stage,
    pub(super) purpose: Purpose,
    /// Sends memory to the replay that there is.
    pub(super) memory: Option<MemorySender>,
    /// Number of the last transfer.
    pub(super) transfer: u32,
    pub(super) rounds: Rounds,
    /// When the round began.
    pub(super) round_began: Duration,
    /// When a guest that is slowed down began to run.
    pub(super) ran_since: Duration,
    pub(super) sent: Sent,
    pub(super) repairs: Repairs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    NotWanted,
    /// Not sent before this guest time.
    Wanted {
        not_before: Duration,
    },
    /// Memory is sent.
    Sending,
    /// The rest fits the pause. Not sent before this guest time.
    Ready {
        not_before: Duration,
    },
}

/// For whom a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A replay that begins, or differs: nobody follows the log before the transfer's end.
    Replay,
    /// Whoever keeps the log, and would have less of it. It is followed all the time: its end is at an exit,
    /// and nothing before may be noticed by the guest.
    Renewal,
}

impl Whole {
    pub(super) fn new(pace: &Pace) -> Self {
        Self {
            stage: Stage::NotWanted,
            purpose: Purpose::Replay,
            memory: None,
            transfer: 0,
            rounds: Rounds::new(pace.transfer),
            round_began: Duration::ZERO,
            ran_since: Duration::ZERO,
            sent: Sent::default(),
            repairs: Repairs::default(),
        }
    }

    /// One is wanted, or under way.
    pub(super) fn is_wanted(&self) -> bool {
        self.stage != Stage::NotWanted
    }

    /// The guest stood still for one.
    pub(super) fn costs(&mut self, time: Duration) {
        if self.purpose == Purpose::Replay {
            self.repairs.costs(time);
        }
    }

    /// Nobody follows the log until the end of one.
    pub(super) fn replaces_log(&self) -> bool {
        self.is_wanted() && self.purpose == Purpose::Replay
    }

    /// One is wanted, or under way, beside a log that is followed.
    pub(super) fn is_renewal(&self) -> bool {
        self.is_wanted() && self.purpose == Purpose::Renewal
    }
}
