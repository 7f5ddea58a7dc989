//! A guest's sessions: one backup after the other, and the times without one.
//!
//! ```text
//!   alone ──a backup comes──▶ joining ──it has taken the state over──▶ protected
//!     ▲ ▲                        │                                        │
//!     │ └────────it is lost──────┘                                        │
//!     └───────────it is lost, and this host won the next epoch────────────┘
//! ```
//!
//! All decisions are in [`crate::protocol::live`]. Here is what they are made of: the sessions
//! themselves, the guest's thread as it comes to its exits, and a thread for each session that sees it to
//! its end.

mod condition;
mod door;
mod hand_over;
mod sink;
#[cfg(test)]
pub(super) mod tests;
mod thread_clock;
mod watch;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use disk_server::views::WentLive;
use logging_channel::LossReason;
use logging_channel::entry::Lsn;
use logging_channel::handshake::Standby;
use logging_channel::sender::{Release, Sender};
use parking_lot::{Condvar, Mutex};

pub(super) use self::condition::Running;
pub(super) use self::door::Door;
pub(super) use self::sink::SessionLog;
use super::tenure::{Standing, Verdict};
use crate::events::{Event, Events};
use crate::io::Departure;
use crate::protocol::live::{Live, Lost};
use crate::sources::{LookOut, Sent};
use crate::state::Progress;
use crate::threads;

/// What is done with each session that protects the guest from then on.
type WhenProtected = Box<dyn Fn(&Sender) -> io::Result<()> + Send + Sync>;

/// How often is told how a join gets on.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// How often is looked for a verdict.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One backup's time with this host.
#[derive(Debug, Clone)]
struct Session {
    sender: Sender,
    began: Instant,
    /// Stops may be named by a count.
    counts: bool,
    join: Arc<Join>,
}

/// How a join gets on, for people.
#[derive(Debug, Default)]
struct Join {
    /// The entry that completes the state with which the session began; 0: not yet.
    commit: AtomicU64,
    /// How its memory is sent, once that has begun.
    memory: OnceLock<Arc<Progress>>,
    /// The entry that tells the backup that it protects the guest; 0: not yet.
    protected: AtomicU64,
    sent: Mutex<Sent>,
}

impl Session {
    fn new(sender: Sender, counts: bool) -> Self {
        Self {
            sender,
            began: Instant::now(),
            counts,
            join: Arc::default(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.sender.session().session == other.sender.session().session
    }

    /// Ends it, because this host cannot serve it.
    fn give_up(&self, why: &io::Error) {
        log::error!(
            "the backup at {} is given up: {why}",
            self.sender.session().peer_in_words()
        );
        self.sender.give_up(why.to_string());
    }
}

/// Whether the guest runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// This host is the backup of another.
    Following,
    Running,
    /// This host lost the right to run it.
    Lost,
    /// The guest has ended.
    Ended,
}

/// How the guest stands on this host.
#[derive(Debug)]
struct State {
    stage: Stage,
    live: Live,
    /// The session, or the last one.
    session: Option<Session>,
    /// One that the guest's thread has not seen yet.
    offered: Option<Session>,
    /// A backup is being taken into the next epoch, or was, and its session has not begun.
    admitting: bool,
    /// How this host went live, if it did.
    went_live: Option<WentLive>,
}

impl State {
    /// There is no session, and none that the guest's thread is to see.
    fn is_alone(&self) -> bool {
        self.offered.is_none() && self.live.is_alone()
    }
}

/// A guest's sessions on this host. A handle.
#[derive(Clone)]
pub(super) struct Sessions(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// There is an offer.
    offered: AtomicBool,
    /// The view whose backup is to go on with the guest; 0: none.
    hands_over: AtomicU64,
    release: OnceLock<Release>,
    protected: OnceLock<WhenProtected>,
    departure: OnceLock<Departure>,
    standing: Standing,
    look: LookOut,
    events: Events,
}

impl Sessions {
    fn new(stage: Stage, standing: Standing, look: LookOut, events: &Events) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                stage,
                live: Live::alone(Lsn(0)),
                session: None,
                offered: None,
                admitting: false,
                went_live: None,
            }),
            changed: Condvar::new(),
            offered: AtomicBool::new(false),
            hands_over: AtomicU64::new(0),
            release: OnceLock::new(),
            protected: OnceLock::new(),
            departure: OnceLock::new(),
            standing,
            look,
            events: events.clone(),
        }))
    }

    /// Of a host that won an epoch and runs the guest alone.
    pub(super) fn alone(standing: Standing, look: LookOut, events: &Events) -> Self {
        Self::new(Stage::Running, standing, look, events)
    }

    /// Of a host that is the backup of another.
    pub(super) fn following(standing: Standing, look: LookOut, events: &Events) -> Self {
        Self::new(Stage::Following, standing, look, events)
    }

    /// This host has won the next epoch, and runs the guest alone.
    pub(super) fn go_alone(&self) {
        self.change(|state| {
            state.stage = Stage::Running;
            state.live.go_on_alone();
        });
        // What waited for the backup.
        if let Some(release) = self.0.release.get() {
            let permit = self.permit_of(&self.0.state.lock());
            release(permit);
        }
    }

    /// A backup has come, to join the guest.
    pub(super) fn offer(&self, sender: Sender, counts: bool) {
        let session = Session::new(sender, counts);
        self.change(|state| {
            state.offered = Some(session.clone());
            state.admitting = false;
        });
        if let Err(error) = self.attend(session.clone()) {
            session.give_up(&error);
            return self.lost(&session);
        }
        self.0.offered.store(true, Ordering::Release);
        self.0.look.look();
    }

    /// The channel to the backup, or to the last one.
    pub(super) fn latest(&self) -> Option<Sender> {
        let state = self.0.state.lock();
        state.session.as_ref().map(|session| session.sender.clone())
    }

    /// The epoch in which the guest runs here.
    pub(super) fn epoch(&self) -> u64 {
        self.0.standing.epoch()
    }

    /// Whether the guest that runs here is alone, and no backup is on its way to join it; `None` where it does not run
    /// here, on the backup of another host.
    pub(super) fn wants_backup(&self) -> Option<bool> {
        let state = self.0.state.lock();
        match state.stage {
            Stage::Following => None,
            Stage::Running => Some(state.is_alone() && !state.admitting),
            Stage::Lost | Stage::Ended => Some(false),
        }
    }

    /// Has `act` called with each session that protects the guest from then on. One for which that fails
    /// is given up.
    pub(super) fn when_protected(
        &self,
        act: impl Fn(&Sender) -> io::Result<()> + Send + Sync + 'static,
    ) {
        let _ = self.0.protected.set(Box::new(act));
    }

    /// The guest has a network, and this is how it leaves this host by plan.
    pub(super) fn depart_by(&self, departure: Departure) {
        let _ = self.0.departure.set(departure);
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.0.state.lock());
        self.0.changed.notify_all();
        changed
    }

    /// A session's acknowledgements open the gate from now on.
    fn release_with(&self, session: &Session, base: Lsn) {
        // The session must not keep itself alive: it ends with its last handle.
        let shared = Arc::downgrade(&self.0);
        session.sender.release_with(Box::new(move |permit| {
            let shared = shared.upgrade()?;
            let left = shared.release.get()?(permit.after(base.0));
            left.map(|lsn| Lsn(lsn.0.saturating_sub(base.0)))
        }));
    }

    /// Sees a session to its end, on a thread of its own.
    fn attend(&self, session: Session) -> io::Result<()> {
        let sessions = self.clone();
        let attend = move || {
            sessions.watch_join(&session);
            sessions.tell_protected(&session);
            session.sender.wait_over();
            sessions.lost(&session);
        };
        threads::start("session", &[], attend).map(drop)
    }

    fn lost(&self, session: &Session) {
        let reason = session.sender.lost();
        let lost = self.change(|state| {
            if state
                .offered
                .take_if(|offered| offered.is(session))
                .is_some()
            {
                return Lost::Join;
            }
            state.live.lose_session()
        });
        if lost == Lost::Join {
            let reason = reason.map_or_else(String::new, |reason| reason.to_string());
            log::warn!("the backup that was joining is lost: {reason}; the guest is NOT PROTECTED");
            return self.0.events.emit(&Event::JoinCut { reason });
        }
        if reason == Some(LossReason::Orderly) {
            return self.change(|state| state.live.go_on_alone());
        }
        // What the right to run alone depends on.
        loop {
            match self.0.standing.wait(LOOK_INTERVAL) {
                Some(Verdict::Won { .. }) => return self.go_alone(),
                Some(Verdict::Lost(_)) => return self.change(|state| state.stage = Stage::Lost),
                None => {}
            }
        }
    }

    /// Tells how a join gets on, and has the guest's thread look when it is complete.
    fn watch_join(&self, session: &Session) {
        let join = &session.join;
        let mut sent = 0;
        while self.is_joining(session) && !session.sender.is_lost() {
            let mut taken_over = false;
            session
                .sender
                .wait_acknowledged(TELL_INTERVAL, |_, executed| {
                    let commit = join.commit.load(Ordering::Relaxed);
                    taken_over = commit > 0 && executed.0 >= commit;
                    taken_over
                });
            if taken_over {
                self.0.look.look();
                let epoch = session.sender.session().epoch;
                if !self.0.standing.is_acknowledged(epoch, LOOK_INTERVAL) {
                    continue;
                }
                self.0.look.look();
                let mut state = self.0.state.lock();
                let joins = |state: &mut State| state.live.is_joining();
                let changed = &self.0.changed;
                changed.wait_while_for(&mut state, joins, LOOK_INTERVAL);
                continue;
            }
            if let Some(memory) = join.memory.get() {
                let bytes = memory.bytes();
                self.tell_progress(memory, bytes.saturating_sub(sent));
                sent = bytes;
            }
        }
    }

    /// Tells that the guest is protected, once the backup knows.
    fn tell_protected(&self, session: &Session) {
        let join = &session.join;
        let mut known = false;
        while !known && !session.sender.is_lost() {
            session.sender.wait_acknowledged(LOOK_INTERVAL, |acked, _| {
                let entry = join.protected.load(Ordering::Acquire);
                known = entry > 0 && acked.0 >= entry;
                known
            });
        }
        if !known {
            return;
        }
        let (took, sent) = (session.began.elapsed(), *join.sent.lock());
        let peer = session.sender.session().peer_in_words();
        log::warn!(
            "PROTECTED by the backup at {peer}, {:.1} s after it came: {:.1} MB in {} rounds, the guest \
             stood still for {:.0} ms at the end",
            took.as_secs_f64(),
            sent.bytes as f64 / 1e6,
            sent.rounds,
            sent.pause.as_secs_f64() * 1e3,
        );
        self.0.events.emit(&Event::Protected {
            epoch: session.sender.session().epoch,
            join_ms: took.as_millis() as u64,
            pause_ms: sent.pause.as_millis() as u64,
            bytes: sent.bytes,
            rounds: sent.rounds,
            standby: match session.sender.session().standby {
                Standby::Hot => "hot",
                Standby::Cold => "cold",
            },
        });
    }

    /// Whether it joins, or is about to.
    fn is_joining(&self, session: &Session) -> bool {
        let state = self.0.state.lock();
        let is = |other: &Option<Session>| other.as_ref().is_some_and(|other| other.is(session));
        is(&state.offered) || is(&state.session) && state.live.is_joining()
    }

    fn tell_progress(&self, memory: &Progress, lately: u64) {
        let (left, pages) = memory.left();
        let done = pages.saturating_sub(left) as f64 / pages.max(1) as f64;
        let percent = 100.0 * done;
        let bytes = memory.bytes();
        let bytes_per_second = lately as f64 / TELL_INTERVAL.as_secs_f64();
        // As many bytes a page as until now.
        let to_come = bytes as f64 / pages.saturating_sub(left).max(1) as f64 * left as f64;
        let seconds_left = (lately > 0).then(|| to_come / bytes_per_second);
        let left = seconds_left.map_or_else(String::new, |s| format!(", {s:.0} s left"));
        log::info!(
            "joining: {percent:.0} %, {:.1} MB sent, {:.1} MB/s{left}",
            bytes as f64 / 1e6,
            bytes_per_second / 1e6
        );
        self.0.events.emit(&Event::Joining {
            percent,
            bytes,
            bytes_per_second,
            seconds_left,
        });
    }
}
