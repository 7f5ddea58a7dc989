//! Being alive is not getting on: when to take a backup for lost whose heartbeats come. No clock, no
//! socket: time is an argument.

use std::time::{Duration, Instant};

use crate::entry::Lsn;
use crate::heartbeat::Grace;
use crate::loss::LossReason;
use crate::settings::Settings;

/// How many times as long a guest may be held up by a replay that makes steps and does not catch up.
const CRAWLING: u32 = 4;

/// How many times as long a backup has for its first step, and to take over the whole state.
const PREPARATION: u32 = 30;

/// How the backup gets on, as the primary sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// When the oldest output was appended that waits for its acknowledgement.
    pub(super) awaited: Option<Instant>,
    /// Since when the guest is held up, for the backup or for room in the log's buffer.
    pub(super) held: Option<Instant>,
    /// Last entry of the log.
    pub(super) appended: Lsn,
    /// Last entry that the backup acknowledged.
    pub(super) acked: Lsn,
    /// Last entry that it executed.
    pub(super) executed: Lsn,
    /// It is taking over a transfer of the whole state.
    pub(super) repairing: bool,
    /// It does not protect the guest yet: nothing waits for it.
    pub(super) joining: bool,
    /// All of a transfer was sent that it has not taken over.
    pub(super) sent: bool,
    /// Since when the disk that it reads does not answer this host either.
    pub(super) disk_silent: Option<Instant>,
    /// Until when acknowledged outputs could leave, or can, if they wait for the backup.
    pub(super) proven_until: Option<Instant>,
}

/// How often it is looked at whether the backup gets on: often enough for the output timeout to be
/// exact to a tenth.
pub(super) fn look_interval(settings: &Settings) -> Duration {
    let tenth = settings.output_timeout() / 10;
    tenth.clamp(Duration::from_millis(1), settings.heartbeat_interval())
}

impl Seen {
    /// It gets the whole state, or is to.
    fn takes_over(&self) -> bool {
        self.joining || self.repairing
    }

    fn prepares(&self) -> bool {
        self.executed == Lsn(0) || self.repairing
    }
}

/// Decides whether a backup that is heard gets on.
///
/// It does not when, for the whole of the bound,
///
/// - outputs could not leave, because it was known too late of everything that this host sent that the
///   backup had heard it: the network is too slow for the heartbeat timeout;
/// - or an output waits for its acknowledgement. The receiving end acknowledges, whatever the replay
///   does, so only the network or a full buffer can be in the way;
/// - or the guest is held up, and something of the log has not arrived, or the replay makes not one
///   step, for which it may take [`Settings::longest_step`] more;
/// - or it makes steps, and does not catch up with the guest that stands still: then for
///   [`CRAWLING`] times as long, or times [`Settings::max_lag`].
///
/// A replay prepares itself for [`PREPARATION`] times the bound at most: before its first step (the
/// guest is being put together), and while it takes over the whole state. And it has to wait for a disk
/// that answers neither host, after that for as long again, because what is repeated on a connection
/// without answers is repeated at doubled intervals.
///
/// One that joins, or is repaired, holds nothing up, and keeps every other backup out. It has as long for each
/// step that there is to make, and to take over the state once all of it was sent, whether the guest waits or
/// not.
///
/// A process that did not run itself does not decide at once: see [`Grace`].
#[derive(Debug)]
pub(super) struct Standstill {
    bound: Duration,
    /// How long a step of the replay may take.
    step: Duration,
    /// How long the guest may be held up for a replay that has all of the log.
    catch_up: Duration,
    grace: Grace,
    /// How far the replay was, and since when.
    executed: (Lsn, Instant),
    /// When it prepared itself last.
    prepared: Instant,
    /// When one that takes the whole state over got on last, or had nothing to do.
    joined: Instant,
    /// All of the state had been sent at the last look.
    sent: bool,
    disk_silent: Option<Instant>,
    /// Until when the replay may wait for the disk.
    excused: Instant,
}

impl Standstill {
    /// A detector that is ticked every `interval`.
    pub(super) fn new(settings: &Settings, interval: Duration, now: Instant) -> Self {
        let bound = settings.output_timeout();
        let step = bound.saturating_add(settings.longest_step);
        Self {
            bound,
            step,
            catch_up: step.max(settings.max_lag).saturating_mul(CRAWLING),
            grace: Grace::new(bound, interval, now),
            executed: (Lsn(0), now),
            prepared: now,
            joined: now,
            sent: false,
            disk_silent: None,
            excused: now,
        }
    }

    /// Time has passed. Returns why the backup is lost, if it is.
    pub(super) fn tick(&mut self, now: Instant, seen: &Seen) -> Option<LossReason> {
        let unsure = self.grace.tick(now);
        let steps = seen.executed > self.executed.0;
        if steps {
            self.executed = (seen.executed, now);
        }
        let all_sent = seen.sent && !self.sent;
        self.sent = seen.sent;
        let has_all = seen.executed >= seen.appended;
        if !seen.takes_over() || has_all || all_sent || (steps && !seen.sent) {
            self.joined = now;
        }
        if seen.prepares() {
            self.prepared = now;
        }
        if let (Some(since), None) = (self.disk_silent, seen.disk_silent) {
            self.excused = now + now.saturating_duration_since(since);
        }
        self.disk_silent = seen.disk_silent;
        let found = self.find(now, seen);
        if found.is_none() {
            self.grace.news();
        }
        found.filter(|_| !unsure)
    }

    fn find(&self, now: Instant, seen: &Seen) -> Option<LossReason> {
        let beyond = |bound, since: Instant| {
            let for_ = now.saturating_duration_since(since);
            (for_ >= bound).then_some(for_)
        };
        if let Some(for_) = seen.awaited.and_then(|since| beyond(self.bound, since)) {
            return Some(LossReason::Unacknowledged { for_ });
        }
        if let Some(for_) = seen.proven_until.and_then(|end| beyond(self.bound, end)) {
            return Some(LossReason::Late { for_ });
        }
        let preparation = self.bound.saturating_mul(PREPARATION);
        if seen.takes_over()
            && seen.disk_silent.is_none()
            && let Some(for_) = beyond(preparation, self.joined.max(self.excused))
        {
            return Some(LossReason::Standstill { for_ });
        }
        let held = seen.held?;
        let found = if seen.acked < seen.appended {
            beyond(self.bound, held)
        } else if seen.disk_silent.is_some() {
            None
        } else if seen.prepares() {
            beyond(preparation, held)
        } else {
            let since = held.max(self.prepared).max(self.excused);
            let stands = beyond(self.step, since.max(self.executed.1));
            stands.or_else(|| beyond(self.catch_up, since))
        };
        found.map(|for_| LossReason::Standstill { for_ })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: Duration = Duration::from_millis(1000);
    const INTERVAL: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn settings() -> Settings {
        Settings {
            output_timeout: Some(BOUND),
            longest_step: Duration::ZERO,
            ..Settings::default()
        }
    }

    fn all_is_well() -> Seen {
        Seen {
            awaited: None,
            held: None,
            appended: Lsn(50),
            acked: Lsn(50),
            executed: Lsn(50),
            repairing: false,
            joining: false,
            sent: false,
            disk_silent: None,
            proven_until: None,
        }
    }

    /// What is found, tick by tick, when `seen` says what there is to see at a time.
    fn run(until: u64, seen: impl Fn(Instant, u64) -> Seen) -> Option<(u64, LossReason)> {
        run_with(&settings(), until, seen)
    }

    fn run_with(
        settings: &Settings,
        until: u64,
        seen: impl Fn(Instant, u64) -> Seen,
    ) -> Option<(u64, LossReason)> {
        let start = Instant::now();
        let mut it = Standstill::new(settings, INTERVAL, start);
        (0..=until).step_by(100).find_map(|n| {
            let found = it.tick(start + ms(n), &seen(start, n))?;
            Some((n, found))
        })
    }

    #[test]
    fn an_output_that_waits_for_the_bound_is_a_loss() {
        let found = run(5000, |start, _| Seen {
            awaited: Some(start + ms(200)),
            acked: Lsn(49),
            ..all_is_well()
        });
        let for_ = BOUND;
        assert_eq!(found, Some((1200, LossReason::Unacknowledged { for_ })));
    }

    #[test]
    fn a_network_that_takes_as_long_as_the_timeout_is_a_loss_and_not_a_guest_that_nobody_hears() {
        let proven = |start, n: u64, late| Seen {
            proven_until: Some(start + ms(n.saturating_sub(late))),
            ..all_is_well()
        };
        assert_eq!(run(60_000, |start, n| proven(start, n, 900)), None);
        let for_ = BOUND;
        let lost = Some((1000, LossReason::Late { for_ }));
        assert_eq!(run(60_000, |start, n| proven(start, n, 1000)), lost);
    }

    #[test]
    fn outputs_that_wait_one_after_the_other_are_none() {
        let found = run(60_000, |start, n| Seen {
            awaited: Some(start + ms(n.saturating_sub(950))),
            acked: Lsn(49),
            ..all_is_well()
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_log_that_does_not_arrive_while_the_guest_is_held_up_is_a_loss() {
        // A trickle of acknowledgements and of steps does not help: all of it must be there.
        let found = run(5000, |start, n| Seen {
            held: Some(start + ms(300)),
            acked: Lsn(10 + n / 100),
            executed: Lsn(10 + n / 100),
            appended: Lsn(500),
            ..all_is_well()
        });
        let for_ = BOUND;
        assert_eq!(found, Some((1300, LossReason::Standstill { for_ })));
    }

    #[test]
    fn a_replay_that_stands_still_while_the_guest_is_held_up_is_a_loss() {
        let found = run(9000, |start, n| Seen {
            held: (n >= 700).then_some(start + ms(700)),
            executed: Lsn(if n < 2000 { 30 } else { 40 }),
            ..all_is_well()
        });
        let for_ = BOUND;
        assert_eq!(found, Some((1700, LossReason::Standstill { for_ })));
    }

    #[test]
    fn a_long_step_is_none() {
        let settings = Settings {
            longest_step: ms(3000),
            ..settings()
        };
        let steps = |start, n| Seen {
            held: (n < 3900).then_some(start),
            executed: Lsn(if n < 3900 { 30 } else { 50 }),
            ..all_is_well()
        };
        assert_eq!(run_with(&settings, 60_000, steps), None);
    }

    /// It makes a step before each look, and the guest does not get on.
    fn crawls(start: Instant, n: u64) -> Seen {
        Seen {
            held: Some(start),
            appended: Lsn(1000),
            acked: Lsn(1000),
            executed: Lsn(1 + n / 100),
            ..all_is_well()
        }
    }

    #[test]
    fn a_replay_that_crawls_while_the_guest_is_held_up_is_a_loss() {
        let for_ = BOUND * CRAWLING;
        let lost = Some((4000, LossReason::Standstill { for_ }));
        assert_eq!(run(60_000, crawls), lost);
    }

    #[test]
    fn who_may_lag_by_much_may_catch_up_for_long() {
        let settings = Settings {
            max_lag: ms(5000),
            ..settings()
        };
        let for_ = ms(20_000);
        let lost = Some((20_000, LossReason::Standstill { for_ }));
        assert_eq!(run_with(&settings, 60_000, crawls), lost);
    }

    #[test]
    fn a_guest_that_is_held_up_again_and_again_has_a_slow_backup() {
        let found = run(60_000, |start, n| Seen {
            held: (n % 1000 > 0).then(|| start + ms(n / 1000 * 1000)),
            executed: Lsn(1 + n / 1000),
            ..all_is_well()
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_guest_that_runs_has_a_backup_with_time() {
        let behind = Seen {
            executed: Lsn(30),
            ..all_is_well()
        };
        assert_eq!(run(60_000, |_, _| behind), None);
    }

    #[test]
    fn a_backup_that_begins_or_is_repaired_has_more_time_and_an_end_of_it() {
        let begins = |start, _| Seen {
            held: Some(start),
            executed: Lsn(0),
            ..all_is_well()
        };
        let repaired = |start, _| Seen {
            held: Some(start),
            repairing: true,
            ..all_is_well()
        };
        let for_ = BOUND * PREPARATION;
        let lost = Some((30_000, LossReason::Standstill { for_ }));
        let has_begun = |start, n| Seen {
            held: (n < 21_000).then_some(start),
            executed: Lsn(if n < 20_000 { 0 } else { n / 1000 }),
            ..all_is_well()
        };
        assert_eq!(run(60_000, has_begun), None, "it has begun");
        assert_eq!(run(60_000, begins), lost, "it begins");
        assert_eq!(run(60_000, repaired), lost, "it is repaired");
    }

    #[test]
    fn a_target_that_hangs_is_a_loss_though_the_guest_runs() {
        let for_ = BOUND * PREPARATION;
        // It hangs from the fifth second on, in the transfer or behind it.
        let hangs = |_, n: u64| Seen {
            joining: true,
            repairing: true,
            appended: Lsn(1000 + n),
            acked: Lsn(1000 + n),
            executed: Lsn(n.min(5000)),
            ..all_is_well()
        };
        let lost = Some((35_000, LossReason::Standstill { for_ }));
        assert_eq!(run(60_000, hangs), lost);
        // It makes steps, and has all of the state from the fifth second on.
        let crawls = |start, n: u64| Seen {
            executed: Lsn(n),
            sent: n >= 5000,
            ..hangs(start, n)
        };
        let lost = Some((35_000, LossReason::Standstill { for_ }));
        assert_eq!(run(60_000, crawls), lost);
    }

    #[test]
    fn a_target_that_gets_on_has_as_long_as_its_transfer_takes() {
        let gets_on = |start, n: u64| Seen {
            joining: true,
            repairing: n < 300_000,
            sent: (280_000..300_000).contains(&n),
            held: Some(start + ms(n / 1000 * 1000)),
            appended: Lsn(1000 + n),
            acked: Lsn(1000 + n),
            executed: Lsn(n / 20_000 * 20_000),
            ..all_is_well()
        };
        assert_eq!(run(400_000, gets_on), None);
        // It has all of the log, and the guest is halted before the exit at which it would protect it.
        let waits = |_, _| Seen {
            joining: true,
            ..all_is_well()
        };
        assert_eq!(run(400_000, waits), None);
    }

    #[test]
    fn a_replay_that_waits_for_a_silent_disk_has_time() {
        // The disk is silent from 1500 to 6500, which is known 500 ms later.
        let waits = |since: u64| {
            move |start: Instant, n: u64| Seen {
                held: (n >= 1500).then_some(start + ms(1500)),
                executed: Lsn(if n < since { 30 } else { 40 }),
                disk_silent: (2000..7000).contains(&n).then_some(start + ms(1500)),
                ..all_is_well()
            }
        };
        let goes_on = |start, n| Seen {
            held: None,
            ..waits(11_000)(start, n)
        };
        let then = |start: Instant, n: u64| {
            if n < 11_000 {
                waits(11_000)(start, n)
            } else {
                goes_on(start, n)
            }
        };
        assert_eq!(run(60_000, then), None);
        let (at, found) = run(60_000, waits(60_000)).expect("it never goes on");
        assert_eq!(at, 7000 + 5500 + 1000);
        assert!(matches!(found, LossReason::Standstill { .. }), "{found:?}");
    }

    #[test]
    fn a_process_that_did_not_run_reads_what_came_before_it_decides() {
        let start = Instant::now();
        let mut it = Standstill::new(&settings(), INTERVAL, start);
        let awaits = Seen {
            awaited: Some(start),
            acked: Lsn(49),
            ..all_is_well()
        };
        assert_eq!(it.tick(start + INTERVAL, &awaits), None);
        let woke = start + ms(30_000);
        assert_eq!(it.tick(woke, &awaits), None);
        assert_eq!(it.tick(woke + INTERVAL, &all_is_well()), None);
        assert_eq!(it.tick(woke + INTERVAL * 2, &all_is_well()), None);
    }

    proptest! {
        /// However late the ticks are: no loss before the bound, and always one soon after it.
        #[test]
        fn an_output_is_lost_after_the_bound_and_two_intervals(
            late in prop::collection::vec(0u64..100, 30),
        ) {
            let start = Instant::now();
            let mut it = Standstill::new(&settings(), INTERVAL, start);
            let seen = Seen { awaited: Some(start), acked: Lsn(49), ..all_is_well() };
            let mut found = None;
            for (n, late) in (1u32..).zip(late) {
                let now = start + INTERVAL * n + ms(late);
                if it.tick(now, &seen).is_some() {
                    found = Some(now - start);
                    break;
                }
            }
            let found = found.expect("a loss");
            prop_assert!(found >= BOUND && found <= BOUND + INTERVAL * 2, "{found:?}");
        }
    }
}
