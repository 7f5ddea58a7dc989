//! A primary that does not reach its guest's disk gives way to a backup that does.
//!
//! The disk server may be down, and then both hosts wait for it: nothing is won by a failover. So the
//! backup tells when the disk server answered it last, and the primary gives way only when that was
//! well after the server fell silent here, and the server does not answer a question either that was
//! asked after the primary knew of it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use confinement::Calls;
use disk_server::arbiter::Settings;
use logging_channel::handshake::Standby;
use logging_channel::receiver::ReceiverHandle;
use logging_channel::sender::Sender;

use super::claim::ArbiterConfig;
use crate::threads;

/// How often a host looks whether the disk server answers.
const INTERVAL: Duration = Duration::from_millis(250);

/// Whether a primary gives way. No clock, no socket: time is an argument.
#[derive(Debug)]
struct Reach {
    bound: Duration,
    /// Since when the disk server does not answer this host.
    silent: Option<Instant>,
}

/// A question to the disk server.
#[derive(Debug, Clone, Copy)]
struct Question {
    asked: Instant,
    /// When the disk server had answered the backup, as this host knew when it asked.
    backup: Option<Instant>,
}

impl Reach {
    fn new(bound: Duration) -> Self {
        Self {
            bound,
            silent: None,
        }
    }

    /// The disk server answered, or did not until `now`. Returns for how long it has been silent if
    /// this host gives way.
    fn asked(&mut self, question: Question, answered: bool, now: Instant) -> Option<Duration> {
        if answered {
            self.silent = None;
            return None;
        }
        let since = *self.silent.get_or_insert(question.asked);
        let for_ = now.saturating_duration_since(since);
        // Half of the bound later: a server that goes down does not fall silent everywhere at once.
        // Before the question: one that comes back does not answer everywhere at once.
        let backup_has_it = question
            .backup
            .is_some_and(|at| at >= since + self.bound / 2);
        (for_ >= self.bound && backup_has_it).then_some(for_)
    }
}

/// Takes turns in a thread of its own, at every interval, as long as they say so. A turn gets a
/// question to the disk server: whether it answers within `patience`.
fn take_turns(
    config: &ArbiterConfig,
    patience: Duration,
    mut turn: impl FnMut(&dyn Fn() -> bool) -> bool + Send + 'static,
) -> io::Result<()> {
    let settings = Settings {
        connect_timeout: patience,
        answer_timeout: patience,
        warm_answer_timeout: patience,
        ..Settings::default()
    };
    let arbiter = config.client(settings);
    let turns = move || {
        while turn(&|| arbiter.warm().is_ok()) {
            thread::sleep(INTERVAL);
        }
    };
    threads::start("storage-watch", &[Calls::Connect, Calls::Files], turns).map(drop)
}

/// Has the backup's heartbeats tell when the disk server answered it.
///
/// # Errors
/// The host has no thread for that.
pub(super) fn report(config: &ArbiterConfig, backup: ReceiverHandle) -> io::Result<()> {
    take_turns(config, INTERVAL * 2, move |answers| {
        let asked = Instant::now();
        if answers() {
            backup.storage_answered(asked);
        }
        backup.lost().is_none()
    })
}

/// Has the primary give way when the disk server has not answered it for `bound`, but its backup.
/// Where backups read the disk (`backup_reads`), the replay has to wait for a server that answers
/// nobody: it is not lost for that.
///
/// # Errors
/// The host has no thread for that.
pub(super) fn watch(
    config: &ArbiterConfig,
    primary: Sender,
    bound: Duration,
    backup_reads: bool,
) -> io::Result<()> {
    let mut reach = Reach::new(bound);
    let backup_reads = backup_reads && primary.session().standby == Standby::Hot;
    // An old connection, and a new one: a server that fell silent is found out within half of the
    // bound, before anybody takes the backup for lost.
    take_turns(config, bound / 4, move |answers| {
        let question = Question {
            asked: Instant::now(),
            backup: primary.storage_answered_backup(),
        };
        let answered = answers();
        if let Some(for_) = reach.asked(question, answered, Instant::now()) {
            primary.give_way(for_);
        }
        if backup_reads {
            primary.storage_silent(reach.silent);
        }
        !primary.is_lost()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_millis(250);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// For how long the server is silent when the primary gives way. The server answers the primary
    /// and the backup at times, in milliseconds, of which `primary` and `backup` say so; the backup
    /// asks `phase` after the primary does.
    fn gives_way(
        phase: u64,
        primary: impl Fn(u64) -> bool,
        backup: impl Fn(u64) -> bool,
    ) -> Option<Duration> {
        let start = Instant::now();
        let mut reach = Reach::new(BOUND);
        let mut asks = 0;
        while asks < 60_000 {
            let question = Question {
                asked: start + ms(asks),
                // What the backup asked in the last 100 ms has not been told yet.
                backup: (phase..asks.saturating_sub(100))
                    .step_by(INTERVAL.as_millis() as usize)
                    .filter(|at| backup(*at))
                    .last()
                    .map(|at| start + ms(at)),
            };
            let answered = primary(asks);
            if !answered {
                asks += PATIENCE.as_millis() as u64;
            }
            let found = reach.asked(question, answered, start + ms(asks));
            if found.is_some() {
                return found;
            }
            asks += INTERVAL.as_millis() as u64;
        }
        None
    }

    #[test]
    fn a_primary_gives_way_to_a_backup_that_reaches_the_disk_server() {
        for phase in (0..250).step_by(10) {
            let silent = gives_way(phase, |at| at < 1000, |_| true).expect("it gives way");
            let limit = BOUND + PATIENCE + INTERVAL;
            assert!(silent >= BOUND && silent <= limit, "{silent:?}");
        }
    }

    #[test]
    fn a_disk_server_that_is_down_is_waited_for() {
        for phase in (0..250).step_by(10) {
            assert_eq!(gives_way(phase, |at| at < 1000, |at| at < 1000), None);
            let later = gives_way(phase, |at| at < 1000, |at| at < 1500);
            assert_eq!(later, None, "it fell silent there a little later");
        }
    }

    #[test]
    fn nobody_gives_way_when_the_disk_server_comes_back() {
        for phase in (0..250).step_by(10) {
            for down in (100..4000).step_by(10) {
                let up = |at| at < 1000 || at >= 1000 + down;
                assert_eq!(gives_way(phase, up, up), None, "{phase} {down}");
            }
        }
    }

    #[test]
    fn a_backup_that_says_nothing_is_not_given_way_to() {
        assert_eq!(gives_way(0, |_| false, |_| false), None);
    }

    #[test]
    fn a_single_answer_begins_anew() {
        let now_and_then = |at: u64| at % 1000 < 500;
        assert_eq!(gives_way(0, now_and_then, |_| true), None);
    }
}
