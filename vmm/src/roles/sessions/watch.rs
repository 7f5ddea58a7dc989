//! How far the guest's log is committed, for the gate and for the disk.

use std::time::{Duration, Instant};

use logging_channel::entry::Lsn;
use logging_channel::handshake::Standby;
use logging_channel::sender::{Permit, Release};

use super::{Sessions, Stage, State};
use crate::disk::progress::{LogProgress, Reached};
use crate::gates::committed::{CommitWatch, Outlook};

impl State {
    fn waits_for_backup(&self) -> bool {
        !self.live.is_alone() && !self.live.is_joining()
    }

    fn outlook(&self) -> Outlook {
        match self.stage {
            Stage::Lost => Outlook::Never,
            _ if self.waits_for_backup() => Outlook::Open,
            _ => Outlook::Alone,
        }
    }
}

impl Sessions {
    pub(super) fn permit_of(&self, state: &State) -> Permit {
        let session = state.session.as_ref();
        state
            .live
            .permit(session.map(|session| session.sender.permit()))
    }
}

impl Sessions {
    /// Whether this host may say where the guest is; see [`Live::may_announce`].
    pub(in crate::roles) fn may_announce(&self) -> bool {
        let state = self.0.state.lock();
        let permit = state
            .session
            .as_ref()
            .map(|session| session.sender.permit());
        state.live.may_announce(permit, Instant::now())
    }
}

impl CommitWatch for Sessions {
    fn on_commit(&mut self, release: Release) {
        let _ = self.0.release.set(release);
    }

    fn permit(&self) -> Permit {
        self.permit_of(&self.0.state.lock())
    }

    fn latest(&self) -> Lsn {
        self.0.state.lock().live.appended()
    }

    fn released(&self, lsn: Lsn) {
        let state = self.0.state.lock();
        let base = state.live.base();
        if let Some(session) = &state.session
            && lsn > base
        {
            session.sender.released(Lsn(lsn.0 - base.0));
        }
    }

    fn outlook(&self, seen: Outlook, timeout: Duration) -> Outlook {
        let mut state = self.0.state.lock();
        let same = |state: &mut State| state.outlook() == seen;
        self.0.changed.wait_while_for(&mut state, same, timeout);
        state.outlook()
    }
}

impl LogProgress for Sessions {
    fn now(&self) -> Reached {
        let state = self.0.state.lock();
        match (state.outlook(), &state.session) {
            (Outlook::Never, _) => Reached::Never,
            (Outlook::Open, Some(session)) => {
                let base = state.live.base();
                let of_guest = |lsn: Lsn| Lsn(lsn.0 + base.0);
                let executes = session.sender.session().standby == Standby::Hot;
                Reached::UpTo {
                    session: base,
                    committed: of_guest(session.sender.acked()),
                    executed: executes.then(|| of_guest(session.sender.executed())),
                    epoch: Some(self.epoch()),
                }
            }
            (Outlook::Open | Outlook::Alone, _) => Reached::Alone {
                epoch: Some(self.epoch()),
            },
        }
    }

    fn wait(&self, timeout: Duration, arrived: &mut dyn FnMut(Lsn, Lsn) -> bool) {
        let deadline = Instant::now() + timeout;
        let (session, base) = {
            let mut state = self.0.state.lock();
            let session = state.session.clone();
            match session.filter(|session| !session.sender.is_lost()) {
                Some(session) if state.waits_for_backup() => (session, state.live.base().0),
                _ => {
                    let outlook = state.outlook();
                    let same = |state: &mut State| state.outlook() == outlook;
                    let changed = &self.0.changed;
                    changed.wait_while_until(&mut state, same, deadline);
                    return;
                }
            }
        };
        session
            .sender
            .wait_acknowledged(timeout, |acked, executed| {
                arrived(Lsn(acked.0 + base), Lsn(executed.0 + base))
            });
    }
}
