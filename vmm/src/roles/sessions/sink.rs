//! The guest's log, as its recorder writes it: to whoever follows it, if anybody does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use logging_channel::entry::{Entry, Lsn, Payload, StatePart};
use logging_channel::sender::{Finish, Sender};

use super::thread_clock::ThreadClock;
use super::{Join, Session, Sessions, Stage, State};
use crate::elsewhere::DroppedElsewhere;
use crate::engine::Step;
use crate::events::Event;
use crate::protocol::live::AtExit;
use crate::sources::{LogSink, Sent};
use crate::state::{Progress, SendBlocks};

/// How long a backup may take to acknowledge the end of an orderly log.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for one that joins.
const JOIN_FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Has a cold backup told how much of a processor this thread uses from now on, which is the guest's.
fn meter(sender: &Sender) {
    let Ok(clock) = ThreadClock::of_this_thread() else {
        return log::warn!("a cold backup cannot be told how long its replay would take");
    };
    let before = clock.read();
    sender.meter_with(move || clock.read().saturating_sub(before));
}

/// The guest's log. For its thread.
pub(in crate::roles) struct SessionLog {
    sessions: Sessions,
    current: Option<DroppedElsewhere<Session>>,
    /// The session is to protect the guest, and does not yet.
    unprotected: bool,
    /// **Leaves a backup that differs as it is.**
    #[cfg(feature = "sabotage")]
    pub(in crate::roles) never_repair: bool,
}

impl SessionLog {
    /// The log of the guest that these sessions are of, from its begin on, or from where this host
    /// goes live.
    pub(in crate::roles) fn new(sessions: Sessions) -> Self {
        let current = sessions.0.state.lock().session.clone();
        if let Some(session) = &current {
            meter(&session.sender);
        }
        Self {
            sessions,
            unprotected: current.is_some(),
            current: current.map(DroppedElsewhere::new),
            #[cfg(feature = "sabotage")]
            never_repair: false,
        }
    }

    /// The session, while its backup is there.
    fn session(&self) -> Option<&Session> {
        let session = self.current.as_deref()?;
        (!session.sender.is_lost()).then_some(session)
    }

    /// Notes what the backup has to execute before it has the state with which the session began.
    fn note_state(state: &mut State, join: &Join, part: &StatePart) {
        match part {
            StatePart::Begin(_) => {
                state.live.state_begun();
                join.commit.store(0, Ordering::Relaxed);
            }
            StatePart::Commit(_) if join.commit.load(Ordering::Relaxed) == 0 => {
                let lsn = state.live.appended().0 - state.live.base().0;
                state.live.state_sent(Lsn(lsn));
                join.commit.store(lsn, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

impl LogSink for SessionLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let lsn = {
            let mut state = self.sessions.0.state.lock();
            let lsn = state.live.append();
            if let (true, Some(session), Payload::State(part)) =
                (self.unprotected, &self.current, &entry.payload)
            {
                Self::note_state(&mut state, &session.join, part);
            }
            lsn
        };
        if let Some(session) = &self.current {
            session.sender.append(entry);
        }
        Ok(lsn)
    }

    fn flush(&mut self) {
        if let Some(session) = &self.current {
            session.sender.flush();
        }
    }

    fn throttle(&mut self) {
        // A backup that joins takes its time.
        if let (false, Some(session)) = (self.unprotected, &self.current) {
            session.sender.throttle();
        }
    }

    fn is_kept(&self) -> bool {
        // Also while it is asked whether this host may go on alone: outputs wait for that, each by its
        // entry.
        self.current.is_some() && !self.sessions.0.state.lock().live.is_alone()
    }

    fn is_replayed(&self) -> bool {
        self.session().is_some()
    }

    fn begins(&mut self) -> bool {
        let shared = &self.sessions.0;
        if !shared.offered.load(Ordering::Relaxed) || !shared.offered.swap(false, Ordering::Acquire)
        {
            return false;
        }
        let session = self.sessions.change(|state| {
            let session = state.offered.take()?;
            state.live.begin_session();
            state.session = Some(session.clone());
            Some(session)
        });
        let Some(session) = session else {
            return false; // it has gone again
        };
        log::info!(
            "the backup at {} joins: sending it the whole state",
            session.sender.session().peer_in_words()
        );
        meter(&session.sender);
        self.current = Some(DroppedElsewhere::new(session));
        self.unprotected = true;
        true
    }

    fn protects(&mut self) -> bool {
        if !self.unprotected {
            return false;
        }
        let Some(session) = self.session() else {
            return false;
        };
        // At once: an output that is submitted from now on waits, and the owner of the epoch knows who
        // may claim the next one, before the backup can hear that it may.
        let executed = session.sender.executed();
        let wants_state = session.sender.wants_state();
        let standing = self.sessions.standing();
        let known = standing.is_acknowledged(session.sender.session().epoch, Duration::ZERO);
        let base = self.sessions.change(|state| {
            if known {
                state.live.acknowledged();
            }
            match state.live.at_exit(executed, wants_state) {
                AtExit::Nothing => None,
                AtExit::TakenOver => {
                    standing.taken_over();
                    None
                }
                AtExit::Protected => {
                    standing.pair_with(session.sender.events());
                    Some(state.live.base())
                }
            }
        });
        let Some(base) = base else {
            return false;
        };
        self.sessions.release_with(session, base);
        if let Some(act) = self.sessions.0.protected.get()
            && let Err(error) = act(&session.sender)
        {
            session.give_up(&error);
        }
        // The entry that follows.
        let entry = self.sessions.0.state.lock().live.appended().0 + 1 - base.0;
        session.join.protected.store(entry, Ordering::Release);
        self.unprotected = false;
        true
    }

    fn state_wanted(&mut self) -> Option<Lsn> {
        let session = self.session()?;
        let lsn = session.sender.state_wanted()?;
        if self.unprotected {
            session.join.commit.store(0, Ordering::Relaxed);
            self.sessions.change(|state| state.live.state_begun());
        }
        if !self.unprotected {
            let diverged = Event::BackupDiverged { lsn: lsn.0 };
            self.sessions.0.events.emit(&diverged);
        }
        #[cfg(feature = "sabotage")]
        if self.never_repair {
            return None;
        }
        Some(lsn)
    }

    fn renewal_wanted(&mut self) -> bool {
        let session = self.session();
        session.is_some_and(|session| session.sender.renewal_wanted())
    }

    fn hands_over(&self) -> bool {
        self.sessions.hands_over() && self.session().is_some()
    }

    fn hand_over(&mut self) -> Step<()> {
        match &self.current {
            Some(session) => self.sessions.hand_over(session),
            None => Ok(()),
        }
    }

    fn takes_counts(&self) -> bool {
        self.session()
            .is_none_or(|session| session.counts && session.sender.takes_counts())
    }

    fn is_unprotected(&mut self, divergences: usize, wait: Duration) {
        // One that joins protected nothing before.
        if !self.unprotected {
            self.sessions.0.events.emit(&Event::Unprotected {
                divergences,
                repair_in_ms: wait.as_millis() as u64,
            });
        }
    }

    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        let Some(session) = &self.current else {
            return Vec::new();
        };
        match session.sender.memory_streams() {
            Ok(streams) => {
                let boxed = |stream| Box::new(stream) as Box<dyn SendBlocks>;
                streams.into_iter().map(boxed).collect()
            }
            Err(error) => {
                self.lose_replay(&error);
                Vec::new()
            }
        }
    }

    fn lose_replay(&mut self, why: &io::Error) {
        if let Some(session) = &self.current {
            session.give_up(why);
        }
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let look = self.sessions.0.look.clone();
        Box::new(move || look.look())
    }

    fn memory_is_sent(&mut self, progress: Arc<Progress>) {
        if let Some(session) = &self.current {
            let _ = session.join.memory.set(progress);
        }
    }

    fn does_not_converge(&mut self, guest: u64, network: u64) {
        log::warn!(
            "the transfer of the guest's state does not converge: the guest writes {:.1} MB/s, the network \
             takes {:.1}: give it a faster logging network, let the guest stand still for longer \
             (--max-pause), or be slowed down (--throttle-guest)",
            guest as f64 / 1e6,
            network as f64 / 1e6,
        );
        self.sessions.0.events.emit(&Event::DoesNotConverge {
            guest_bytes_per_second: guest,
            bytes_per_second: network,
        });
    }

    fn state_sent(&mut self, sent: Sent) {
        if let (true, Some(session)) = (self.unprotected, &self.current) {
            *session.join.sent.lock() = sent;
        } else {
            self.sessions.0.events.emit(&Event::StateSent);
        }
    }

    fn finish(&mut self) -> Step<()> {
        let standing = self.sessions.standing();
        standing.guest_ended();
        self.sessions.change(|state| state.stage = Stage::Ended);
        let Some(session) = &self.current else {
            log::info!("the guest ended without a backup");
            return Ok(());
        };
        // One that joins has nothing of what it would acknowledge.
        let timeout = match self.unprotected {
            true => JOIN_FINISH_TIMEOUT,
            false => FINISH_TIMEOUT,
        };
        match session.sender.finish(timeout) {
            Finish::Orderly => log::info!("the backup has the whole log"),
            Finish::TimedOut => log::warn!("the backup did not acknowledge the guest's end"),
            Finish::PeerLost(reason) => log::info!("the guest ended without a backup ({reason})"),
        }
        // Before the end of the guest is told, which depends on it.
        if let (false, Some(reason)) = (self.unprotected, session.sender.lost()) {
            standing.session_over(&reason);
        }
        Ok(())
    }
}
