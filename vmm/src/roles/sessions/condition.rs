//! How the guest is on this host, as others are told.

use disk_server::views::{Phase, WentLive};
use logging_channel::handshake::Standby;

use super::{Join, Sessions, Stage, State};

/// How the guest is that runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::roles) struct Running {
    pub(in crate::roles) phase: Phase,
    /// How far the backup's execution is behind, in milliseconds; 0 where there is none.
    pub(in crate::roles) lag_ms: u64,
    /// What the log of the session, or of the last one, took, in bytes.
    pub(in crate::roles) log_bytes: u64,
    pub(in crate::roles) went_live: Option<WentLive>,
}

impl Join {
    /// How much of memory was gone through in this round.
    fn percent(&self) -> u8 {
        let Some(memory) = self.memory.get() else {
            return 0;
        };
        let (left, pages) = memory.left();
        let done = pages.saturating_sub(left) * 100 / pages.max(1);
        u8::try_from(done).unwrap_or(100).min(100)
    }
}

impl State {
    fn phase(&self) -> Phase {
        if let Some(offered) = &self.offered {
            let percent = offered.join.percent();
            return Phase::Joining { percent };
        }
        if self.live.is_alone() {
            return Phase::Alone;
        }
        match &self.session {
            Some(session) if self.live.is_joining() => Phase::Joining {
                percent: session.join.percent(),
            },
            Some(session) if self.live.is_protected() && !session.sender.is_lost() => {
                // A cold one that gets the state anew goes by the one that it has until then.
                let is_hot = session.sender.session().standby == Standby::Hot;
                match is_hot && session.sender.is_repairing() {
                    true => Phase::Diverged,
                    false => Phase::Protected,
                }
            }
            _ => Phase::Waiting,
        }
    }
}

impl Sessions {
    /// How the guest is that runs here; `None` on the backup of another host.
    pub(in crate::roles) fn running(&self) -> Option<Running> {
        let state = self.0.state.lock();
        if state.stage == Stage::Following {
            return None;
        }
        let phase = state.phase();
        let session = state.session.as_ref();
        let followed = session.filter(|_| matches!(phase, Phase::Protected | Phase::Diverged));
        let lag = followed.map(|session| session.sender.lag());
        Some(Running {
            phase,
            lag_ms: lag.map_or(0, |lag| lag.as_millis() as u64),
            log_bytes: session.map_or(0, |session| session.sender.stats().bytes),
            went_live: state.went_live,
        })
    }

    /// This host went live, like that.
    pub(in crate::roles) fn went_live(&self, how: WentLive) {
        self.change(|state| state.went_live = Some(how));
    }

    /// Does that while this host is the backup of another: it does not go live in between.
    pub(in crate::roles) fn while_following(&self, act: impl FnOnce()) {
        let state = self.0.state.lock();
        if state.stage == Stage::Following {
            act();
        }
    }
}
