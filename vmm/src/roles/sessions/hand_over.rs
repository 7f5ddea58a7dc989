//! A guest that is handed over to its backup by plan.
//!
//! ```text
//!   somebody asks      the guest's thread, at an exit        the owner of the epoch
//!        │                          │                                  │
//!        ├──────── look! ──────────▶│ appends a mark, stands still     │
//!                                   │ waits: the backup has executed   │
//!                                   │ all, all outputs have left       │
//!                                   ├───── the next epoch is left ────▶│
//!                                   ├───── ends the session            │ looks whether
//!                                   │                                  │ the backup has won
//!                                   │◀──────── who goes on ────────────┤
//! ```
//!
//! The backup finds this host lost as soon as the session ends, has nothing to replay, and claims. So nothing
//! that the guest did here is thrown away, and nobody waits for silence. What comes of it is decided as after
//! any loss.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use logging_channel::entry::Lsn;
use logging_channel::handshake::Standby;

use super::{Session, Sessions, Stage, State};
use crate::engine::{Interruption, Step};
use crate::gates::committed::CommitWatch;
use crate::roles::tenure::Verdict;

/// For how long the guest stands still until its backup has executed all: much longer than it may lag.
const CATCH_UP: Duration = Duration::from_secs(2);

/// For how long it stands still at most until it is known who goes on with it. Then it runs on, and what it
/// sends waits, as after any loss.
const STANDSTILL: Duration = Duration::from_secs(5);

/// Why a guest is not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::roles) enum NotHandedOver {
    /// It runs elsewhere.
    #[error("this host is the guest's backup: ask its primary")]
    Following,
    /// It has ended, or does so.
    #[error("the guest ends")]
    Ending,
    /// It has another view.
    #[error("the guest is in view {0}")]
    OtherView(u64),
    /// Nobody could go on with it.
    #[error("no backup protects the guest: wait until one does")]
    Unprotected,
    /// Its backup could not.
    #[error("the backup differs, and gets the whole state: wait until it has that")]
    Differs,
    /// Its backup would take long.
    #[error("the backup is cold, and would have to replay its log first: have a hot one")]
    Cold,
}

impl Sessions {
    /// The backup of this view is to go on with the guest. That is begun, if it can be.
    ///
    /// # Errors
    /// [`NotHandedOver`].
    pub(in crate::roles) fn ask_hand_over(&self, view: u64) -> Result<(), NotHandedOver> {
        {
            let state = self.0.state.lock();
            let session = self.protecting(&state, view)?;
            if session.sender.session().standby == Standby::Cold {
                return Err(NotHandedOver::Cold);
            }
        }
        log::info!("view {view}: the guest is to be handed over to the backup");
        self.0.hands_over.store(view, Ordering::Release);
        self.0.look.look();
        Ok(())
    }

    /// Calls `act` if the backup of this view protects the guest, which stays so meanwhile as far as this host knows.
    ///
    /// # Errors
    /// [`NotHandedOver`]: nobody would go on with the guest.
    pub(in crate::roles) fn while_protected(
        &self,
        view: u64,
        act: impl FnOnce(),
    ) -> Result<(), NotHandedOver> {
        let state = self.0.state.lock();
        self.protecting(&state, view)?;
        act();
        Ok(())
    }

    /// The session with the backup of this view, if that could go on with the guest.
    fn protecting<'a>(&self, state: &'a State, view: u64) -> Result<&'a Session, NotHandedOver> {
        match state.stage {
            Stage::Following => return Err(NotHandedOver::Following),
            Stage::Lost | Stage::Ended => return Err(NotHandedOver::Ending),
            Stage::Running => {}
        }
        let epoch = self.epoch();
        if epoch != view {
            return Err(NotHandedOver::OtherView(epoch));
        }
        let session = state.session.as_ref().filter(|it| !it.sender.is_lost());
        let Some(session) = session.filter(|_| state.live.is_protected()) else {
            return Err(NotHandedOver::Unprotected);
        };
        match session.sender.is_repairing() {
            true => Err(NotHandedOver::Differs),
            false => Ok(session),
        }
    }

    /// Whether the guest's thread is to hand it over. Costs one atomic load.
    pub(super) fn hands_over(&self) -> bool {
        self.0.hands_over.load(Ordering::Relaxed) != 0
    }

    /// Hands the guest over to this session's backup. For its thread, which does not let it run meanwhile.
    pub(super) fn hand_over(&self, session: &Session) -> Step<()> {
        let view = self.0.hands_over.swap(0, Ordering::Acquire);
        if session.sender.session().epoch != view || !self.has_everything(session) {
            return Ok(());
        }
        if !self.change(|state| state.live.hand_over()) {
            return Ok(());
        }
        let departure = self.0.departure.get();
        departure.inspect(|it| it.begin());
        self.standing().hand_over(view);
        session.sender.hand_over();
        match self.standing().wait(STANDSTILL) {
            Some(Verdict::Lost(reason)) => {
                departure.inspect(|it| it.wait_over());
                Err(Interruption::Halt(reason))
            }
            Some(Verdict::Won { .. }) | None => {
                departure.inspect(|it| it.cancel());
                Ok(())
            }
        }
    }

    /// Waits until the backup has executed all that there is, and all outputs have left. Whether that is so.
    fn has_everything(&self, session: &Session) -> bool {
        let sender = &session.sender;
        let last = {
            let state = self.0.state.lock();
            Lsn(state.live.appended().0 - state.live.base().0)
        };
        sender.flush();
        sender.wait_acknowledged(CATCH_UP, |_, executed| executed >= last);
        if sender.is_lost() {
            return false;
        }
        // The thread that has heard the last acknowledgement may not be done with it. By a permit that holds
        // nothing is left in the gate, so that no earlier one can let out something later.
        let permit = self.permit();
        if let Some(lsn) = self.0.release.get().and_then(|release| release(permit)) {
            self.released(lsn);
        }
        let executed = sender.executed() >= last && !sender.is_repairing();
        if executed && permit.up_to >= CommitWatch::latest(self) && permit.holds(Instant::now()) {
            return true;
        }
        log::warn!(
            "not handed over: the backup does not have everything, for which the guest waits {} ms at most",
            CATCH_UP.as_millis()
        );
        false
    }
}
