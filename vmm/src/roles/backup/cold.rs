//! A backup that only keeps the log, until it is lost, or is to be hot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logging_channel::LossReason;
use logging_channel::entry::DiskOutcome;
use logging_channel::receiver::{Generation, Kept, Receiver};
use parking_lot::Mutex;

use crate::disk::followed::Followed;
use crate::engine::Ended;
use crate::events::{Event, Events};
use crate::protocol::follower::{Follower, WhileCold};
use crate::roles::NotLive;
use crate::sources::ClockTrace;

/// How long to wait for news before looking around.
const PATIENCE: Duration = Duration::from_millis(200);

/// What comes after.
pub(super) enum Then {
    /// The replay, from the last state on.
    Replay(Kept),
    /// Nothing: the guest has ended on the primary.
    Ended(Ended),
}

/// A backup that only keeps the log.
pub(super) struct Cold<'a> {
    pub(super) events: &'a Events,
    /// Set when it is to be hot.
    pub(super) turn_hot: &'a AtomicBool,
    is_protecting: bool,
    generation: Option<Generation>,
}

impl<'a> Cold<'a> {
    pub(super) fn new(events: &'a Events, turn_hot: &'a AtomicBool) -> Self {
        Self {
            events,
            turn_hot,
            is_protecting: false,
            generation: None,
        }
    }

    /// Keeps what comes for as long as there is nothing else to do.
    ///
    /// # Errors
    /// [`NotLive`]: there is no guest to go on with.
    pub(super) fn hold(
        mut self,
        receiver: &Receiver,
        protocol: &Mutex<Follower>,
    ) -> Result<Then, NotLive> {
        let handle = receiver.handle();
        loop {
            let kept = handle.kept(PATIENCE).expect("a cold backup keeps the log");
            self.tell(&kept);
            if kept.is_protecting {
                protocol.lock().protect();
            }
            if let Some(failure) = kept.failure {
                return Err(NotLive::NotKept(failure));
            }
            let lost = handle.lost();
            let over = lost.as_ref().filter(|_| kept.is_over);
            let turn_hot = self.turn_hot.load(Ordering::Relaxed);
            let next = (protocol.lock()).while_cold(over, kept.ended.is_some(), turn_hot);
            match next {
                WhileCold::Keep => continue,
                WhileCold::Replay => {}
                WhileCold::Discard => {
                    return Err(match lost {
                        Some(LossReason::Orderly) | None => NotLive::Ended,
                        Some(reason) => NotLive::NotJoined(reason.to_string()),
                    });
                }
                WhileCold::End => {
                    let ended = kept.ended.expect("it has ended");
                    return Ok(Then::Ended(Ended {
                        reason: ended.reason,
                        exits: ended.exits,
                    }));
                }
            }
            let Generation {
                state_bytes,
                log_bytes,
                ..
            } = kept.generation;
            log::warn!(
                "replays a state of {:.1} MB and {:.1} MB of log: that takes about {:.1} s",
                state_bytes as f64 / 1e6,
                log_bytes as f64 / 1e6,
                kept.replay.as_secs_f64()
            );
            self.events.emit(&Event::Replaying {
                state_bytes,
                log_bytes,
                replay_ms: kept.replay.as_millis() as u64,
            });
            return Ok(Then::Replay(kept));
        }
    }

    /// What a replay that begins behind a part of the log has to know of that: of the guest's clocks, which must
    /// not go back if the log has no later word of them,
    pub(super) fn clocks(kept: &Kept) -> ClockTrace {
        let mut trace = ClockTrace::default();
        for (arrived, payload) in &kept.clocks {
            trace.note(payload, *arrived);
        }
        trace
    }

    /// and of the disk.
    pub(super) fn tell_disk(kept: &Kept, disk: &Followed) {
        disk.joined();
        for (id, outcome) in &kept.notices {
            disk.completed(*id, *outcome == DiskOutcome::Done);
        }
    }

    fn tell(&mut self, kept: &Kept) {
        if kept.is_protecting && !self.is_protecting {
            self.is_protecting = true;
            log::info!(
                "this host goes on with the guest if the primary is lost, once it has replayed what it \
                 keeps until then"
            );
            self.events.emit(&Event::Joined);
        }
        let before = self.generation.replace(kept.generation);
        if let Some(before) = before
            && before.begins_before(&kept.generation)
            && kept.is_protecting
        {
            log::info!(
                "has the primary's state anew: {:.1} MB, in place of {:.1} MB of log",
                kept.generation.state_bytes as f64 / 1e6,
                before.log_bytes as f64 / 1e6
            );
            self.events.emit(&Event::Renewed {
                state_bytes: kept.generation.state_bytes,
                log_bytes: before.log_bytes,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use logging_channel::Keep;
    use logging_channel::entry::{Entry, ExecutionPoint, Payload, ShutdownReason};
    use logging_channel::handshake::Title;
    use logging_channel::sender::{Finish, Sender};
    use logging_channel::session::{Admission, Confirmation, Listener};
    use logging_channel::{HostReport, Settings};
    use tempfile::TempDir;

    use super::*;
    use crate::roles::tenure::tests::identity;

    const LONG: Duration = Duration::from_secs(60);

    const PROTECTED: Payload = Payload::Protected {
        clock: 1,
        wall_clock: 1,
    };

    fn session(directory: &TempDir) -> (Sender, Receiver) {
        let (identity, host) = (identity(), HostReport::default());
        let settings = Settings {
            heartbeat_timeout: LONG,
            ..Settings::default()
        };
        let keep = Some(Keep {
            directory: directory.path().to_owned(),
            durable: false,
            most_replay: LONG,
            most_log: 1 << 20,
            read_block: crate::state::read_block,
        });
        let cold = Settings {
            keep,
            ..settings.clone()
        };
        let plain = transport::Endpoint::plain();
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
        let address = listener.local_addr();
        let title = |_: Option<&_>| {
            Ok(Title {
                epoch: 1,
                holder: "a/1".into(),
            })
        };
        let deadline = Instant::now() + LONG;
        thread::scope(|scope| {
            let backup = scope.spawn(|| {
                let never = AtomicBool::new(false);
                let held = |_: &_, _: Option<&_>| Confirmation::Held;
                let me = (&identity, "b/1");
                Receiver::connect((address, &plain), me, &host, &cold, deadline, &never, held)
            });
            let held = |_: &_, _: Option<&_>| Admission::Admitted(2);
            let accepted = listener.accept_backup(&identity, &host, title, &settings, None, held);
            (accepted.unwrap(), backup.join().unwrap().unwrap())
        })
    }

    fn append(sender: &Sender, payload: Payload) {
        sender.append_and_flush(Entry {
            point: ExecutionPoint::at_exit(7),
            check: None,
            payload,
        });
    }

    /// What comes after these entries, when the primary is lost or ends in order.
    fn after(entries: &[Payload], in_order: bool) -> Result<Then, NotLive> {
        let directory = TempDir::new().unwrap();
        let (sender, receiver) = session(&directory);
        let events = Events::default();
        thread::scope(|scope| {
            let held = scope.spawn(|| {
                let never = AtomicBool::new(false);
                Cold::new(&events, &never).hold(&receiver, &Mutex::default())
            });
            for entry in entries {
                append(&sender, entry.clone());
            }
            match in_order {
                true => assert_eq!(sender.finish(LONG), Finish::Orderly),
                false => drop(sender),
            }
            held.join().unwrap()
        })
    }

    #[test]
    fn one_that_does_not_protect_replays_nothing() {
        let log = [Payload::Progress];
        assert!(matches!(after(&log, false), Err(NotLive::NotJoined(_))));
        let ended = [Payload::Shutdown(ShutdownReason::PowerOff)];
        assert!(matches!(after(&ended, true), Err(NotLive::Ended)));
    }

    #[test]
    fn a_lost_primary_is_replayed_and_one_whose_guest_has_ended_is_not() {
        let log = [PROTECTED, Payload::Progress];
        match after(&log, false) {
            Ok(Then::Replay(kept)) => assert!(kept.is_over && kept.generation.log_bytes > 0),
            _ => panic!("a guest to go on with"),
        }
        let ended = [PROTECTED, Payload::Shutdown(ShutdownReason::Reset)];
        for in_order in [false, true] {
            match after(&ended, in_order) {
                Ok(Then::Ended(ended)) => {
                    assert_eq!((ended.reason, ended.exits), (ShutdownReason::Reset, 7));
                }
                _ => panic!("it has ended"),
            }
        }
    }

    #[test]
    fn one_that_turns_hot_begins_once_it_protects() {
        let directory = TempDir::new().unwrap();
        let (sender, receiver) = session(&directory);
        let (events, hot) = (Events::default(), AtomicBool::new(true));
        append(&sender, Payload::Progress);
        append(&sender, PROTECTED);
        let then = Cold::new(&events, &hot).hold(&receiver, &Mutex::default());
        assert!(matches!(then, Ok(Then::Replay(kept)) if !kept.is_over));
    }
}
