//! A primary that does not reach its guest's disk gives way to a backup that does.
//!
//! The disk server may be down, and then both hosts wait for it: nothing is won by a failover. So the
//! backup tells when the disk server answered it last, and the primary gives way only when that was
//! well after the server fell silent here.

use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::{Arbiter, Settings};
use logging_channel::receiver::ReceiverHandle;
use logging_channel::sender::Sender;

use super::claim::ArbiterConfig;

/// How often a host looks whether the disk server answers.
const INTERVAL: Duration = Duration::from_millis(250);

/// Whether a primary gives way. No clock, no socket: time is an argument.
#[derive(Debug)]
struct Reach {
    bound: Duration,
    /// Since when the disk server does not answer this host.
    silent: Option<Instant>,
}

impl Reach {
    fn new(bound: Duration) -> Self {
        Self {
            bound,
            silent: None,
        }
    }

    /// The disk server was asked at `asked`, and answered or did not until `now`. It answered the
    /// backup last at `backup`. Returns for how long it has been silent if this host gives way.
    fn asked(
        &mut self,
        asked: Instant,
        answered: bool,
        now: Instant,
        backup: Option<Instant>,
    ) -> Option<Duration> {
        if answered {
            self.silent = None;
            return None;
        }
        let since = *self.silent.get_or_insert(asked);
        let for_ = now.saturating_duration_since(since);
        // Half of the bound later: a server that goes down does not fall silent everywhere at once.
        let backup_has_it = backup.is_some_and(|at| at >= since + self.bound / 2);
        (for_ >= self.bound && backup_has_it).then_some(for_)
    }
}

/// Asks the disk server in a thread of its own, at every interval, as long as `then` says so. It gets
/// when it was asked, and whether there was an answer within `patience`.
fn ask(
    config: &ArbiterConfig,
    patience: Duration,
    mut then: impl FnMut(Instant, bool) -> bool + Send + 'static,
) {
    let settings = Settings {
        connect_timeout: patience,
        answer_timeout: patience,
        warm_answer_timeout: patience,
        ..Settings::default()
    };
    let arbiter = Arbiter::new(config.server.clone(), settings);
    let ask = move || {
        loop {
            let asked = Instant::now();
            let answered = arbiter.warm().is_ok();
            if !then(asked, answered) {
                return;
            }
            thread::sleep(INTERVAL);
        }
    };
    thread::Builder::new()
        .name("storage-watch".into())
        .spawn(ask)
        .expect("a thread can be started");
}

/// Has the backup's heartbeats tell when the disk server answered it.
pub(super) fn report(config: &ArbiterConfig, backup: ReceiverHandle) {
    let patience = INTERVAL * 2;
    ask(config, patience, move |asked, answered| {
        if answered {
            backup.storage_answered(asked);
        }
        backup.lost().is_none()
    });
}

/// Has the primary give way when the disk server has not answered it for `bound`, but its backup.
pub(super) fn watch(config: &ArbiterConfig, primary: Sender, bound: Duration) {
    let mut reach = Reach::new(bound);
    ask(config, bound / 2, move |asked, answered| {
        let backup = primary.storage_answered_backup();
        if let Some(for_) = reach.asked(asked, answered, Instant::now(), backup) {
            primary.give_way(for_);
        }
        !primary.is_lost()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// For how long the server is silent when the primary gives way. It falls silent here after the
    /// first question, and answers the backup up to `backup`, which the primary hears at once.
    fn gives_way(backup: Duration) -> Option<Duration> {
        let start = Instant::now();
        let mut reach = Reach::new(BOUND);
        (0..100u32).find_map(|n| {
            let asked = start + INTERVAL * n;
            let now = asked + INTERVAL / 2;
            reach.asked(asked, n == 0, now, Some(now.min(start + backup)))
        })
    }

    #[test]
    fn a_primary_gives_way_to_a_backup_that_reaches_the_disk_server() {
        let silent = gives_way(ms(60_000)).expect("it gives way");
        assert!(silent >= BOUND && silent <= BOUND + INTERVAL, "{silent:?}");
    }

    #[test]
    fn a_disk_server_that_is_down_is_waited_for() {
        assert_eq!(gives_way(ms(0)), None);
        assert_eq!(
            gives_way(ms(600)),
            None,
            "it fell silent there a little later"
        );
    }

    #[test]
    fn a_backup_that_says_nothing_is_not_given_way_to() {
        let start = Instant::now();
        let mut reach = Reach::new(BOUND);
        assert_eq!(reach.asked(start, false, start + ms(60_000), None), None);
    }

    #[test]
    fn a_single_answer_begins_anew() {
        let start = Instant::now();
        let backup = Some(start + ms(10_000));
        let mut reach = Reach::new(BOUND);
        assert_eq!(reach.asked(start, false, start + ms(900), backup), None);
        assert_eq!(
            reach.asked(start + ms(950), true, start + ms(960), backup),
            None
        );
        let asked = start + ms(970);
        assert_eq!(reach.asked(asked, false, start + ms(1900), backup), None);
        assert!(
            reach
                .asked(asked, false, start + ms(1970), backup)
                .is_some()
        );
    }
}
