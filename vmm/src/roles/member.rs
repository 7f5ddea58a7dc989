//! A host that runs a guest, or is its backup: what others are told of it, and what it does at their word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use disk_server::arbiter::VmName;
use disk_server::fleet::Order;
use disk_server::views::{Condition, Phase, Role, Wanted};
use logging_channel::receiver::ReceiverHandle;
use nix::sys::signal::{Signal, raise};
use parking_lot::Mutex;

use super::sessions::{Running, Sessions};
use crate::protocol::follower::Follower;
use crate::sources::{Control, Lane};

/// Over how long the log's rate is taken, at least.
const RATE_INTERVAL: Duration = Duration::from_millis(900);

/// How soon the guest is to be handed over again within a view.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(10);

/// A host that runs a guest, or is its backup.
pub(super) struct Member {
    pub(super) vm: VmName,
    pub(super) sessions: Sessions,
    /// What is told where it wants a backup.
    pub(super) wanted: Wanted,
    /// Of one that began as a backup.
    pub(super) following: Option<Following>,
    /// To the guest's thread.
    pub(super) control: Lane<Control>,
    pub(super) log: Mutex<LogRate>,
    /// The view whose backup was to go on with the guest last, and when that was begun.
    pub(super) handed_over: Mutex<Option<(u64, Instant)>>,
}

/// How a backup follows.
pub(super) struct Following {
    pub(super) receiver: ReceiverHandle,
    pub(super) protocol: Arc<Mutex<Follower>>,
    pub(super) is_cold: bool,
}

impl Member {
    /// What this host is now.
    pub(super) fn role(&self) -> Role {
        let (vm, epoch) = (self.vm.clone(), self.sessions.epoch());
        let running = self.sessions.running();
        let condition = self.condition(running);
        if running.is_none() {
            return Role::Backup {
                vm,
                epoch,
                condition,
            };
        }
        let wants = self.sessions.wants_backup() == Some(true);
        Role::Primary {
            vm,
            epoch,
            wants: wants.then(|| self.wanted.clone()),
            condition,
        }
    }

    fn condition(&self, running: Option<Running>) -> Condition {
        let following = || self.following.as_ref();
        let log_bytes = match &running {
            Some(running) => running.log_bytes,
            None => following().map_or(0, |it| it.receiver.stats().bytes),
        };
        Condition {
            phase: match &running {
                Some(running) => running.phase,
                None => following().map_or(Phase::Starting, Following::phase),
            },
            lag_ms: running.map_or(0, |running| running.lag_ms),
            log_bytes_per_second: self.log.lock().seen(log_bytes, Instant::now()),
            went_live: running.and_then(|running| running.went_live),
        }
    }

    /// Does what the view service wants. What does not concern this host as it is now, it ignores.
    pub(super) fn carry_out(&self, order: &Order) {
        let runs = self.sessions.running().is_some();
        match order {
            Order::HandOver { view } => self.hand_over(*view),
            Order::Leave {} => self.sessions.while_following(|| {
                log::warn!("the view service has this backup leave");
                end_by(Signal::SIGTERM);
            }),
            Order::Stop {} if runs => self.control.try_push(Control::Stop),
            Order::Die { view } if runs => {
                let dies = self.sessions.while_protected(*view, || {
                    log::warn!("the view service has this process die");
                    end_by(Signal::SIGKILL);
                });
                if let Err(why) = dies {
                    log::warn!("this process does not die as the view service wants: {why}");
                }
            }
            _ => {}
        }
    }
}

impl Member {
    /// Somebody on this host wants the backup to go on with the guest.
    pub(super) fn ask_hand_over(&self) -> Result<(), String> {
        let asked = self.sessions.ask_hand_over(self.sessions.epoch());
        asked.map_err(|why| format!("not handed over: {why}"))
    }

    /// Whether the guest's console is here, or where else.
    pub(super) fn has_console(&self) -> Result<(), String> {
        match (self.sessions.running(), &self.following) {
            (None, Some(following)) => Err(format!(
                "this host is the guest's backup: the console is with {}, which runs it",
                following.receiver.session().holder
            )),
            _ => Ok(()),
        }
    }

    fn hand_over(&self, view: u64) {
        let mut last = self.handed_over.lock();
        // Each attempt lets the guest stand still: one that came to nothing is not repeated at once.
        if last.is_some_and(|(tried, at)| tried == view && at.elapsed() < HAND_OVER_INTERVAL) {
            return;
        }
        if let Err(why) = self.sessions.ask_hand_over(view) {
            return log::debug!("not handed over as the view service wants: {why}");
        }
        *last = Some((view, Instant::now()));
    }
}

/// Ends this process as somebody else would.
fn end_by(signal: Signal) {
    if raise(signal).is_ok() {
        // It is ignored here, as whoever started this process wanted it.
        std::process::exit(0);
    }
}

impl Following {
    fn phase(&self) -> Phase {
        let protocol = self.protocol.lock();
        if !protocol.is_protecting() {
            let percent = 0; // that is known where it comes from
            return Phase::Joining { percent };
        }
        if self.receiver.lost().is_some() {
            return Phase::Waiting;
        }
        match protocol.differs() && !self.is_cold {
            true => Phase::Diverged,
            false => Phase::Protected,
        }
    }
}

/// What a log takes, lately.
#[derive(Debug, Default)]
pub(super) struct LogRate {
    /// When it was looked at, and what it had taken until then.
    last: Option<(Instant, u64)>,
    per_second: u64,
}

impl LogRate {
    /// It has taken so many bytes, as is seen `now`. Gives what it takes in a second: since it was seen before,
    /// or, if that was just now, in the time before that. One that begins anew counts from 0.
    fn seen(&mut self, bytes: u64, now: Instant) -> u64 {
        let Some((at, before)) = self.last else {
            self.last = Some((now, bytes));
            return self.per_second;
        };
        let time = now.saturating_duration_since(at);
        if time >= RATE_INTERVAL {
            let more = bytes.checked_sub(before).unwrap_or(bytes);
            self.per_second = (more as f64 / time.as_secs_f64()) as u64;
            self.last = Some((now, bytes));
        }
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Events;
    use crate::roles::sessions::tests::{little_needs, protected, session};
    use crate::roles::tenure::tests::{primary, wait_until};
    use crate::sources::{Lanes, LogSink as _};

    #[test]
    fn orders_are_carried_out_that_concern_this_host_as_it_is() {
        let scene = primary();
        let lanes = Lanes::default();
        let standing = scene.tenure.standing();
        let sessions = Sessions::alone(standing, lanes.look.clone(), &Events::default());
        let (mut log, _sender, receiver, _) = protected(&scene, &sessions);
        let view = sessions.epoch();
        let needs = little_needs();
        let member = Member {
            vm: scene.rights.vm().clone(),
            sessions,
            wanted: Wanted {
                address: "0.0.0.0:7421".parse().unwrap(),
                needs,
            },
            following: None,
            control: lanes.control.clone(),
            log: Mutex::default(),
            handed_over: Mutex::default(),
        };
        let phase = |role: Role| match role {
            Role::Primary { condition, .. } => condition.phase,
            other => panic!("{other:?}"),
        };
        assert_eq!(phase(member.role()), Phase::Protected);
        member.carry_out(&Order::Leave {}); // that is for its backup
        member.carry_out(&Order::HandOver { view: view - 1 });
        assert!(!log.hands_over());
        member.carry_out(&Order::HandOver { view });
        assert!(log.hands_over());
        // As if the backup did not catch up: it is lost.
        drop(receiver);
        assert!(log.hand_over().is_ok());
        assert!(!log.hands_over());
        member.carry_out(&Order::HandOver { view });
        assert!(!log.hands_over(), "not at once again");
        member.carry_out(&Order::Die { view }); // nobody would go on with the guest
        assert!(lanes.control.take(None).is_none());
        member.carry_out(&Order::Stop {});
        assert_eq!(lanes.control.take(None), Some(Control::Stop));
        scene.tenure.end();
    }

    #[test]
    fn a_backup_tells_how_it_follows() {
        let scene = primary();
        let (sender, receiver) = session(&scene);
        let mut following = Following {
            receiver: receiver.handle(),
            protocol: Arc::default(),
            is_cold: false,
        };
        assert_eq!(following.phase(), Phase::Joining { percent: 0 });
        let protocol = following.protocol.clone();
        protocol.lock().take_over();
        protocol.lock().protect();
        assert_eq!(following.phase(), Phase::Protected);
        protocol.lock().differ();
        assert_eq!(following.phase(), Phase::Diverged);
        following.is_cold = true;
        assert_eq!(following.phase(), Phase::Protected, "it has what it keeps");
        drop(sender);
        wait_until("it is found", || following.phase() == Phase::Waiting);
        scene.tenure.end();
    }

    #[test]
    fn the_rate_is_of_the_time_since_the_log_was_seen() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut log = LogRate::default();
        assert_eq!(log.seen(5000, start), 0, "nothing is known yet");
        assert_eq!(log.seen(9000, at(2000)), 2000);
        assert_eq!(log.seen(9_000_000, at(2001)), 2000, "too soon for another");
        // A session that has just begun.
        assert_eq!(log.seen(500, at(3000)), 500);
        assert_eq!(log.seen(500, at(4000)), 0);
    }
}
