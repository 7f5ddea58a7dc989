//! How a failover goes, for somebody who watches.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::report::Run;
use crate::pair::JoinProgress;

/// Somebody who watches.
pub trait Watcher {
    /// Is told many times a second how it goes.
    fn status(&mut self, _status: &Status) {}

    /// Is told what became of a failover when it is over.
    fn run(&mut self, _run: &Run) {}
}

/// Nobody watches.
impl Watcher for () {}

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
    /// The other host serves, and this one boots.
    Returning(String),
    /// A backup joins on this host.
    Joining(String),
    /// This host was killed in the middle of that.
    JoinCut(String),
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
    /// How far the join is, while a backup joins and that is known.
    pub join: Option<JoinProgress>,
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
            State::Returning(host) => write!(f, "    {host} boots again"),
            State::JoinCut(host) => write!(f, "    killed {host} in its join"),
            State::Joining(host) => match &self.join {
                None => write!(f, "    {host} joins"),
                Some(join) => write!(f, "    {join}"),
            },
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
    fn a_join_is_shown() {
        let mut status = Status {
            run: 3,
            role: "alone",
            host: "b".to_owned(),
            state: State::Joining("a".to_owned()),
            counts: "counter",
            counter: 1104,
            rate: 148.2,
            lag_ms: None,
            log_mbit: None,
            join: None,
        };
        let alone = "alone on b    counter 1104    148/s    ";
        assert_eq!(status.to_string(), format!("{alone}a joins"));
        status.join = Some(JoinProgress {
            percent: 43.0,
            bytes: 12_000_000,
            bytes_per_second: 8e6,
            seconds_left: Some(2.0),
        });
        let join = "joining: 43 %, 12 MB sent, 8 MB/s, 2 s left";
        assert_eq!(status.to_string(), format!("{alone}{join}"));
    }

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
