//! How far the guest's log is committed, for the gate and for the disk.

use std::time::Duration;

use logging_channel::LossReason;
use logging_channel::entry::Lsn;
use logging_channel::sender::{Permit, Release};

use super::{Phase, Session, Sessions};
use crate::disk::progress::{LogProgress, Reached};
use crate::gates::committed::{CommitWatch, Outlook};
use crate::roles::tenure::Verdict;

impl Sessions {
    /// The session that outputs wait for; otherwise what is known of the right to run alone.
    fn waits_for(&self, timeout: Duration) -> Result<Session, Outlook> {
        let Phase::Protected(session) = self.phase() else {
            return Err(Outlook::Alone);
        };
        if !session.sender.is_lost() && timeout.is_zero() {
            return Ok(session);
        }
        match self.standing().wait(timeout) {
            Some(Verdict::Won { .. }) => Err(Outlook::Alone),
            Some(Verdict::Lost(_)) => Err(Outlook::Never),
            None if session.sender.lost() == Some(LossReason::Orderly) => Err(Outlook::Alone),
            None => Ok(session),
        }
    }

    /// Waits for another phase, for at most `timeout`.
    fn wait_changed(&self, timeout: Duration) {
        let mut phase = self.0.phase.lock();
        let _ = self.0.changed.wait_for(&mut phase, timeout);
    }
}

impl CommitWatch for Sessions {
    fn on_commit(&mut self, release: Release) {
        let _ = self.0.release.set(release);
    }

    fn permit(&self) -> Permit {
        // Before the phase is looked at: what is submitted in a later one is not counted.
        let up_to = self.counted();
        match self.waits_for(Duration::ZERO) {
            Ok(session) => session.permit(),
            Err(Outlook::Alone) => Permit { up_to, until: None },
            Err(Outlook::Open | Outlook::Never) => Permit {
                up_to: Lsn(0),
                until: None,
            },
        }
    }

    fn released(&self, lsn: Lsn) {
        if let Phase::Protected(session) = self.phase()
            && lsn.0 > session.base
        {
            session.sender.released(Lsn(lsn.0 - session.base));
        }
    }

    fn outlook(&self, seen: Outlook, timeout: Duration) -> Outlook {
        match self.waits_for(timeout) {
            Ok(_) => Outlook::Open,
            Err(Outlook::Alone) => {
                if seen == Outlook::Alone {
                    self.wait_changed(timeout);
                }
                Outlook::Alone
            }
            Err(outlook) => outlook,
        }
    }
}

impl LogProgress for Sessions {
    fn now(&self) -> Reached {
        match self.waits_for(Duration::ZERO) {
            Ok(session) => Reached::UpTo {
                committed: session.lsn(session.sender.acked()),
                executed: session.lsn(session.sender.executed()),
            },
            Err(Outlook::Never) => Reached::Never,
            Err(Outlook::Open | Outlook::Alone) => Reached::Alone {
                epoch: Some(self.epoch()),
            },
        }
    }

    fn wait(&self, timeout: Duration, arrived: &mut dyn FnMut(Lsn, Lsn) -> bool) {
        match self.phase() {
            Phase::Protected(session) if !session.sender.is_lost() => {
                session
                    .sender
                    .wait_acknowledged(timeout, |acked, executed| {
                        arrived(session.lsn(acked), session.lsn(executed))
                    });
            }
            Phase::Protected(_) => {
                self.standing().wait(timeout);
            }
            _ => self.wait_changed(timeout),
        }
    }
}
