//! How a failover goes, for somebody who watches.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// What is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Hosts and `ftvm` start.
    Starting,
    /// The guest boots on both hosts.
    Booting,
    /// The client has replies; both hosts run the guest.
    Replicated,
    /// This host was killed, and no reply came since.
    Killed(String),
    /// This host was frozen, and no reply came since.
    Frozen(String),
    /// The other host serves.
    Live,
}

/// How it goes at this moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// The run, from 1.
    pub run: u32,
    /// The role of the host that runs the guest.
    pub role: &'static str,
    /// The host that runs the guest.
    pub host: String,
    /// What is going on.
    pub state: State,
    /// What the client counts: "counter" or "commits".
    pub counts: &'static str,
    /// The number in the client's newest reply.
    pub counter: u64,
    /// Replies in a second.
    pub rate: f64,
    /// How far the backup is behind, while there is one.
    pub lag_ms: Option<f64>,
    /// Megabits of log in a second, while there is a backup.
    pub log_mbit: Option<f64>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {}    {} {}    {:.0}/s",
            self.role, self.host, self.counts, self.counter, self.rate
        )?;
        if let Some(lag) = self.lag_ms {
            write!(f, "    lag {lag:.0} ms")?;
        }
        if let Some(mbit) = self.log_mbit {
            write!(f, "    log {mbit:.1} Mbit/s")?;
        }
        match &self.state {
            State::Starting => f.write_str("    starting"),
            State::Booting => f.write_str("    booting"),
            State::Replicated => f.write_str("    replicated"),
            State::Killed(host) => write!(f, "    killed {host}, waiting"),
            State::Frozen(host) => write!(f, "    froze {host}, waiting"),
            State::Live => write!(f, "    live on {}", self.host),
        }
    }
}

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(1);

/// The rate of something that is counted.
#[derive(Debug, Default)]
pub(super) struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    /// Takes a count in, and gives the rate in a second.
    pub(super) fn count(&mut self, now: Instant, count: u64) -> f64 {
        self.0.push_back((now, count));
        while self
            .0
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.0.pop_front();
        }
        let (since, first) = self.0[0];
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        count.saturating_sub(first) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.count(start, 0), 0.0);
        let at = |tenths| start + Duration::from_millis(100 * tenths);
        for tenths in 1..=20 {
            meter.count(at(tenths), tenths * 10);
        }
        assert_eq!(meter.count(at(30), 200), 0.0);
        assert_eq!(meter.count(at(31), 300), 100.0 / 1.1);
    }
}
