//! What the events of a guest's processes on this host add up to, whichever of them told it.

use std::time::Duration;

use disk_server::monitoring::SECONDS;
use disk_server::views::{Phase, Role};
use prometheus_client::metrics::histogram::Histogram;
use serde::Deserialize;

/// No guest has more outputs between two figures: what says otherwise is not worth the time.
const MOST_OUTPUTS: u64 = 1_000_000;

/// Figures of a guest since the daemon started. None goes back.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Wall clock, in milliseconds: what happened before was an earlier daemon's to count.
    since_unix_ms: u64,
    /// Bytes of log that a primary here sent.
    pub(super) log_bytes_sent: u64,
    /// Bytes of log that a backup here got.
    pub(super) log_bytes_received: u64,
    /// How long outputs waited, in seconds.
    pub(super) output_holds: Histogram,
    /// How often a backup here went live.
    pub(super) failovers: u64,
    /// How often a backup here differed.
    pub(super) divergences: u64,
    /// How often a primary here was joined by a backup.
    pub(super) joins: u64,
    /// For how long a primary here was without a backup that can go on.
    pub(super) unprotected: Duration,
    /// What the process was when it last said so.
    side: Option<Side>,
    /// What its figures last had.
    log_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Primary,
    Backup,
}

/// As much of a line of events as counts.
#[derive(Deserialize)]
struct Line {
    unix_ms: u64,
    #[serde(flatten)]
    event: Told,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Told {
    Role {
        role: Side,
    },
    Live {},
    Diverged {},
    Protected {},
    Stats {
        log_bytes: u64,
        #[serde(default)]
        output_holds_us: Vec<(u64, u64)>,
    },
    #[serde(other)]
    Other,
}

impl Figures {
    /// Counts from this moment on, by the wall clock in milliseconds.
    pub(super) fn since(unix_ms: u64) -> Self {
        Self {
            since_unix_ms: unix_ms,
            log_bytes_sent: 0,
            log_bytes_received: 0,
            output_holds: Histogram::new(SECONDS),
            failovers: 0,
            divergences: 0,
            joins: 0,
            unprotected: Duration::ZERO,
            side: None,
            log_bytes: None,
        }
    }

    /// Adds what a line of events tells. One that is none, or an event of another version, tells nothing.
    pub(super) fn add(&mut self, line: &str) {
        let Ok(Line { unix_ms, event }) = serde_json::from_str(line) else {
            return;
        };
        let counts = u64::from(unix_ms >= self.since_unix_ms);
        match event {
            Told::Role { role } => self.side = Some(role),
            // A primary that goes on alone tells the same.
            Told::Live {} => {
                if self.side.replace(Side::Primary) == Some(Side::Backup) {
                    self.failovers += counts;
                }
            }
            Told::Diverged {} => self.divergences += counts,
            Told::Protected {} => self.joins += counts,
            Told::Stats {
                log_bytes,
                output_holds_us,
            } => {
                let before = self.log_bytes.replace(log_bytes);
                if counts > 0 {
                    self.add_log(before, log_bytes);
                    self.add_holds(&output_holds_us);
                }
            }
            Told::Other => {}
        }
    }

    /// The figure counts from the beginning of a session. The first one may be of one that is old.
    fn add_log(&mut self, before: Option<u64>, now: u64) {
        let new = before.map_or(0, |before| now.checked_sub(before).unwrap_or(now));
        match self.side {
            Some(Side::Primary) => self.log_bytes_sent += new,
            Some(Side::Backup) => self.log_bytes_received += new,
            None => {}
        }
    }

    fn add_holds(&self, holds_us: &[(u64, u64)]) {
        for (us, count) in holds_us {
            let seconds = Duration::from_micros(*us).as_secs_f64();
            for _ in 0..(*count).min(MOST_OUTPUTS) {
                self.output_holds.observe(seconds);
            }
        }
    }

    /// What the process says it is, so long after it was asked before.
    pub(super) fn hear(&mut self, role: &Role, passed: Duration) {
        match role {
            Role::Primary { condition, .. } => {
                self.side = Some(Side::Primary);
                if condition.phase != Phase::Protected {
                    self.unprotected += passed;
                }
            }
            Role::Backup { .. } => self.side = Some(Side::Backup),
            Role::Host(_) | Role::Idle { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use disk_server::views::Condition;

    use super::*;
    use crate::events::{Event, Stats};

    fn tell(figures: &mut Figures, unix_ms: u64, event: Event) {
        let mut line = serde_json::to_value(event).expect("plain data");
        line["unix_ms"] = unix_ms.into();
        figures.add(&line.to_string());
    }

    fn stats(log_bytes: u64, output_holds_us: Vec<(u64, u64)>) -> Event {
        Event::Stats(Box::new(Stats {
            log_bytes,
            output_holds_us,
            ..Stats::default()
        }))
    }

    fn begins(role: &'static str) -> Event {
        Event::Role { role, epoch: 1 }
    }

    fn live() -> Event {
        Event::Live {
            epoch: 2,
            after_loss_ms: 1,
            outage_ms: 1,
            resent_frames: 0,
        }
    }

    #[test]
    fn nothing_goes_back_when_sessions_and_processes_begin_anew() {
        let mut figures = Figures::since(100);
        let mut before = 0;
        tell(&mut figures, 100, begins("primary"));
        for (log_bytes, sum) in [(0, 0), (50, 50), (80, 80), (10, 90), (10, 90), (30, 110)] {
            tell(&mut figures, 101, stats(log_bytes, vec![(2000, 2)]));
            assert_eq!(figures.log_bytes_sent, sum);
            assert!(figures.output_holds.count() > before);
            before = figures.output_holds.count();
        }
        // The next process of the guest.
        tell(&mut figures, 102, begins("backup"));
        tell(&mut figures, 103, stats(5, Vec::new()));
        assert_eq!(
            (figures.log_bytes_sent, figures.log_bytes_received),
            (110, 5)
        );
        assert_eq!(figures.output_holds.count(), 12);
        assert!((figures.output_holds.sum() - 0.024).abs() < 1e-9);
    }

    #[test]
    fn a_failover_is_a_backup_that_goes_live_and_counts_once() {
        let mut figures = Figures::since(100);
        tell(&mut figures, 100, begins("primary"));
        tell(&mut figures, 100, live());
        assert_eq!(figures.failovers, 0, "its backup was lost");
        tell(&mut figures, 101, begins("backup"));
        for _ in 0..2 {
            tell(&mut figures, 102, live());
        }
        assert_eq!(figures.failovers, 1);
        // A daemon that was started meanwhile has missed the beginning.
        let mut figures = Figures::since(100);
        let backup = Role::Backup {
            vm: "db".parse().expect("a name"),
            epoch: 1,
            condition: Condition::default(),
        };
        figures.hear(&backup, Duration::from_secs(1));
        tell(&mut figures, 102, live());
        assert_eq!(
            (figures.failovers, figures.unprotected),
            (1, Duration::ZERO)
        );
    }

    #[test]
    fn what_an_earlier_daemon_has_counted_is_not_counted_again() {
        let mut figures = Figures::since(100);
        let diverged = || Event::Diverged {
            lsn: 1,
            difference: "rax".into(),
            divergences: 1,
            likely_cause: None,
        };
        tell(&mut figures, 98, begins("backup"));
        tell(&mut figures, 98, diverged());
        tell(&mut figures, 99, stats(1000, vec![(10, 10)]));
        tell(&mut figures, 100, stats(1010, vec![(10, 1)]));
        tell(&mut figures, 100, diverged());
        assert_eq!(figures.log_bytes_received, 10);
        assert_eq!((figures.divergences, figures.output_holds.count()), (1, 1));
        // Nor does a daemon that meets a session in its middle take all of it for new.
        let mut figures = Figures::since(100);
        tell(&mut figures, 100, begins("primary"));
        tell(&mut figures, 100, stats(1000, Vec::new()));
        tell(&mut figures, 100, stats(1001, Vec::new()));
        assert_eq!(figures.log_bytes_sent, 1);
    }

    #[test]
    fn time_without_a_backup_is_a_primarys() {
        let mut figures = Figures::since(0);
        let second = Duration::from_secs(1);
        for (phase, sum) in [
            (Phase::Alone, 1),
            (Phase::Joining { percent: 9 }, 2),
            (Phase::Protected, 2),
            (Phase::Diverged, 3),
        ] {
            let condition = Condition {
                phase,
                ..Condition::default()
            };
            let primary = Role::Primary {
                vm: "db".parse().expect("a name"),
                epoch: 1,
                wants: None,
                condition,
            };
            figures.hear(&primary, second);
            assert_eq!(figures.unprotected, sum * second, "{phase:?}");
        }
    }

    #[test]
    fn lines_that_tell_nothing_do_no_harm() {
        let mut figures = Figures::since(0);
        for line in [
            "",
            "{",
            "{\"event\":\"live\"}",
            "{\"event\":\"beer\",\"unix_ms\":1}",
            "{\"event\":\"role\",\"role\":\"king\",\"unix_ms\":1}",
            "{\"event\":\"stats\",\"log_bytes\":-1,\"unix_ms\":1}",
        ] {
            figures.add(line);
        }
        let absurd = "{\"event\":\"stats\",\"log_bytes\":1,\"output_holds_us\":[[1,18446744073709551615]],\"unix_ms\":1}";
        figures.add(absurd);
        assert_eq!(figures.output_holds.count(), MOST_OUTPUTS);
        assert_eq!((figures.failovers, figures.log_bytes_sent), (0, 0));
    }
}
