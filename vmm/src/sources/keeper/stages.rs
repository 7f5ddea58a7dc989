//! How far the transfers of the whole state are: of the one that takes the place of the log, and of the one
//! beside it.

use std::time::Duration;

use super::rounds::Rounds;
use crate::sources::log_sink::Sent;
use crate::sources::pace::Pace;
use crate::sources::repairs::Repairs;
use crate::state::MemorySender;

/// The transfers of the whole state.
pub(super) struct Whole {
    pub(super) stage: Stage,
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

impl Whole {
    pub(super) fn new(pace: &Pace) -> Self {
        Self {
            stage: Stage::NotWanted,
            memory: None,
            transfer: 0,
            rounds: Rounds::new(pace.transfer),
            round_began: Duration::ZERO,
            ran_since: Duration::ZERO,
            sent: Sent::default(),
            repairs: Repairs::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.stage != Stage::NotWanted
    }
}

/// The whole state is sent beside the log: the guest is not stopped for it but at its exits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewing {
    /// Not before this guest time.
    pub(super) next: Duration,
    /// All of memory was sent, as it is until the guest runs on.
    pub(super) is_ready: bool,
    /// How often a round was not half as large as the one before.
    pub(super) level: u32,
    /// Pages of the last round.
    pub(super) round: u64,
    /// Pages that were looked at, and how long that took.
    pub(super) looked_at: (u64, Duration),
    pub(super) sent: Sent,
}

impl Renewing {
    /// Whether so many pages are looked at within `pause`.
    pub(super) fn fits(&self, pages: u64, pause: Duration) -> bool {
        let (looked_at, took) = self.looked_at;
        looked_at > 0 && took.as_secs_f64() * pages as f64 <= pause.as_secs_f64() * looked_at as f64
    }
}
