//! A guest's sessions: one backup after the other, and the times without one.
//!
//! ```text
//!   alone ──a backup comes──▶ joining ──it has taken the state over──▶ protected
//!     ▲ ▲                        │                                        │
//!     │ └────────it is lost──────┘                                        │
//!     └───────────it is lost, and this host won the next epoch────────────┘
//! ```
//!
//! The guest's log is one, over all sessions: an entry's number is that of its session added to those
//! of all before. So what was decided of outputs in one phase says nothing of those in another: a host
//! that is alone lets out what was submitted *until now*, and no more.
//!
//! A backup that is lost while it joins changes nothing: it has not got the entry
//! [`Payload::Protected`], without which no backup goes live. At most one backup of an epoch has.

mod door;
mod sink;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::LossReason;
use logging_channel::entry::Lsn;
use logging_channel::sender::{Permit, Release, Sender};
use parking_lot::{Condvar, Mutex};

pub(super) use self::door::Door;
pub(super) use self::sink::SessionLog;
use super::tenure::{Standing, Verdict};
use crate::events::{Event, Events};
use crate::sources::LookOut;

/// What is done with each session that protects the guest from then on.
type WhenProtected = Box<dyn Fn(&Sender) + Send + Sync>;

/// How often is told how a join gets on.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// How often is looked whether a verdict came that nothing announces.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One backup's time with this host.
#[derive(Debug, Clone)]
struct Session {
    sender: Sender,
    /// Entries of the guest's log before the first one of this session.
    base: u64,
    began: Instant,
    /// Stops may be named by a count.
    counts: bool,
    join: Arc<Join>,
}

/// How a join gets on.
#[derive(Debug, Default)]
struct Join {
    /// The entry that completes the state with which the session began, in the session; 0: not yet.
    commit: AtomicU64,
    bytes: AtomicU64,
    /// Pages that are to be sent yet, of how many.
    left: AtomicU64,
    pages: AtomicU64,
}

impl Session {
    fn is(&self, other: &Self) -> bool {
        self.sender.session().session == other.sender.session().session
    }

    /// What may leave of what the guest's log has, as the backup has it.
    fn permit(&self) -> Permit {
        self.sender.permit().after(self.base)
    }

    /// The number of an entry in the guest's log.
    fn lsn(&self, in_session: Lsn) -> Lsn {
        Lsn(in_session.0.saturating_add(self.base))
    }
}

/// How the guest stands on this host.
#[derive(Debug, Clone)]
enum Phase {
    /// This host is the backup of another.
    Following,
    /// The guest runs, and nobody follows it.
    Alone,
    /// A backup has come. The guest's thread has not seen it yet.
    Offered(Session),
    /// It takes the guest's state over.
    Joining(Session),
    /// It has. Or it had, and is lost, and the right to run alone is being asked for.
    Protected(Session),
    /// The guest has ended.
    Ended,
}

/// A guest's sessions on this host. A handle.
#[derive(Clone)]
pub(super) struct Sessions(Arc<Shared>);

struct Shared {
    phase: Mutex<(Phase, u64)>,
    changed: Condvar,
    /// Entries of the guest's log so far.
    counted: AtomicU64,
    /// There is a phase that the guest's thread has to look at.
    offered: AtomicBool,
    /// The last session's, for figures.
    latest: Mutex<Option<Sender>>,
    release: OnceLock<Release>,
    protected: OnceLock<WhenProtected>,
    standing: OnceLock<Standing>,
    look: LookOut,
    events: Events,
}

impl Sessions {
    fn new(phase: Phase, epoch: u64, look: LookOut, events: &Events) -> Self {
        Self(Arc::new(Shared {
            phase: Mutex::new((phase, epoch)),
            changed: Condvar::new(),
            counted: AtomicU64::new(0),
            offered: AtomicBool::new(false),
            latest: Mutex::default(),
            release: OnceLock::new(),
            protected: OnceLock::new(),
            standing: OnceLock::new(),
            look,
            events: events.clone(),
        }))
    }

    /// Of a host that won `epoch` and runs the guest alone.
    pub(super) fn alone(epoch: u64, standing: Standing, look: LookOut, events: &Events) -> Self {
        let sessions = Self::new(Phase::Alone, epoch, look, events);
        let _ = sessions.0.standing.set(standing);
        sessions
    }

    /// Of a host that is the backup of another, in `epoch`.
    pub(super) fn following(
        epoch: u64,
        standing: Standing,
        look: LookOut,
        events: &Events,
    ) -> Self {
        let sessions = Self::alone(epoch, standing, look, events);
        sessions.set(Phase::Following);
        sessions
    }

    /// This host has won `epoch`, and runs the guest alone.
    pub(super) fn go_alone(&self, epoch: u64) {
        *self.0.phase.lock() = (Phase::Alone, epoch);
        self.0.changed.notify_all();
    }

    /// The guest has not run yet, and the backup `sender` begins together with it.
    pub(super) fn begin_together(&self, sender: Sender, counts: bool) {
        let session = self.session(sender, counts);
        session.join.commit.store(u64::MAX, Ordering::Relaxed);
        self.standing().pair_with(session.sender.events());
        self.set(Phase::Protected(session.clone()));
        self.attend(session);
    }

    /// A backup has come, to join the guest.
    fn offer(&self, sender: Sender, counts: bool) {
        let session = self.session(sender, counts);
        self.set(Phase::Offered(session.clone()));
        self.0.offered.store(true, Ordering::Release);
        self.0.look.look();
        self.attend(session);
    }

    fn session(&self, sender: Sender, counts: bool) -> Session {
        *self.0.latest.lock() = Some(sender.clone());
        Session {
            sender,
            base: 0,
            began: Instant::now(),
            counts,
            join: Arc::default(),
        }
    }

    /// The channel to the backup, or to the last one.
    pub(super) fn latest(&self) -> Option<Sender> {
        self.0.latest.lock().clone()
    }

    /// The epoch in which the guest runs here.
    pub(super) fn epoch(&self) -> u64 {
        self.0.phase.lock().1
    }

    /// Has `act` called with each session that protects the guest from then on.
    pub(super) fn when_protected(&self, act: impl Fn(&Sender) + Send + Sync + 'static) {
        let _ = self.0.protected.set(Box::new(act));
    }

    pub(super) fn standing(&self) -> &Standing {
        self.0.standing.get().expect("it is given at once")
    }

    fn phase(&self) -> Phase {
        self.0.phase.lock().0.clone()
    }

    fn set(&self, phase: Phase) {
        self.0.phase.lock().0 = phase;
        self.0.changed.notify_all();
    }

    /// Entries of the guest's log so far: whoever is alone has no need to wait for one of them.
    fn counted(&self) -> Lsn {
        Lsn(self.0.counted.load(Ordering::Acquire))
    }

    /// A session's acknowledgements open the gate from now on.
    fn release_with(&self, session: &Session) {
        // The session must not keep itself alive: it ends with its last handle.
        let (shared, base) = (Arc::downgrade(&self.0), session.base);
        session.sender.release_with(Box::new(move |permit| {
            let shared = shared.upgrade()?;
            let left = shared.release.get()?(permit.after(base));
            left.map(|lsn| Lsn(lsn.0.saturating_sub(base)))
        }));
    }

    /// Sees a session to its end, on a thread of its own.
    fn attend(&self, session: Session) {
        let sessions = self.clone();
        thread::Builder::new()
            .name("session".into())
            .spawn(move || sessions.see_through(session))
            .expect("a thread can be started");
    }

    fn see_through(&self, session: Session) {
        self.watch_join(&session);
        session.sender.wait_over();
        let cut = {
            let mut phase = self.0.phase.lock();
            let joins = matches!(&phase.0, Phase::Offered(s) | Phase::Joining(s) if s.is(&session));
            if joins {
                phase.0 = Phase::Alone;
                self.0.changed.notify_all();
            }
            joins
        };
        let reason = session.sender.lost();
        if cut {
            let reason = reason.map_or_else(String::new, |reason| reason.to_string());
            log::warn!("the backup that was joining is lost: {reason}; the guest is NOT PROTECTED");
            self.0.events.emit(&Event::JoinCut { reason });
            return;
        }
        if reason == Some(LossReason::Orderly) {
            return;
        }
        // What the right to run alone depends on.
        loop {
            match self.standing().wait(LOOK_INTERVAL) {
                Some(Verdict::Won { epoch, .. }) => return self.go_alone(epoch),
                Some(Verdict::Lost(_)) => return,
                None => {}
            }
        }
    }

    /// Tells how a join gets on, and has the guest's thread look when it is complete.
    fn watch_join(&self, session: &Session) {
        let join = &session.join;
        let mut sent = 0;
        loop {
            match self.phase() {
                Phase::Offered(s) | Phase::Joining(s) if s.is(session) => {}
                _ => return,
            }
            let mut taken_over = false;
            session
                .sender
                .wait_acknowledged(TELL_INTERVAL, |_, executed| {
                    let commit = join.commit.load(Ordering::Relaxed);
                    taken_over = commit > 0 && executed.0 >= commit;
                    taken_over
                });
            if session.sender.is_lost() {
                return;
            }
            if taken_over {
                self.0.look.look();
                // It may be halted, or compute: it comes here at once, as a rule.
                let mut phase = self.0.phase.lock();
                let _ = self.0.changed.wait_for(&mut phase, LOOK_INTERVAL);
                continue;
            }
            let bytes = join.bytes.load(Ordering::Relaxed);
            self.tell_progress(session, bytes - sent);
            sent = bytes;
        }
    }

    fn tell_progress(&self, session: &Session, lately: u64) {
        let join = &session.join;
        let (left, pages) = (
            join.left.load(Ordering::Relaxed),
            join.pages.load(Ordering::Relaxed),
        );
        let done = pages.saturating_sub(left) as f64 / pages.max(1) as f64;
        let seconds = session.began.elapsed().as_secs_f64();
        let (percent, seconds_left) = (100.0 * done, seconds * (1.0 - done) / done.max(0.01));
        let bytes = join.bytes.load(Ordering::Relaxed);
        let bytes_per_second = lately as f64 / TELL_INTERVAL.as_secs_f64();
        log::info!(
            "joining: {percent:.0} %, {:.1} MB sent, {:.1} MB/s, {seconds_left:.0} s left",
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
