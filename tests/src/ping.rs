//! Pings to the guest, several times a second, for as long as something else
//! goes on: how long the guest takes to answer while it computes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdout, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::network::GUEST;
use crate::process::LocalProcess;
use crate::testbed::Testbed;

/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(200);

/// One ping, by its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ping {
    sent: Instant,
    /// Until its answer, if there was one.
    took: Option<Duration>,
}

/// What became of the pings.
#[derive(Debug, Clone, Default)]
pub struct PingRecord(BTreeMap<u64, Ping>);

impl PingRecord {
    /// Takes in a line of `ping -D -O`:
    ///
    /// ```text
    /// [1795241094.112233] 64 bytes from 10.77.0.10: icmp_seq=1 ttl=64 time=2.81 ms
    /// [1795241094.512240] no answer yet for icmp_seq=2
    /// [1795241097.512240] From 10.77.0.100 icmp_seq=2 Destination Host Unreachable
    /// ```
    ///
    /// The second kind is printed when the next ping is sent, and its ping may
    /// still be answered. The third says that the ping was never sent: it waited
    /// here for the guest's answer to ARP, which a guest that has to compute on a
    /// slow machine does not give within three seconds.
    fn line(&mut self, line: &str, at: Instant) {
        let mut number = None;
        let mut took = None;
        for word in line.split(' ') {
            if let Some(text) = word.strip_prefix("icmp_seq=") {
                number = text.parse().ok();
            } else if let Some(text) = word.strip_prefix("time=") {
                took = text.parse().ok().map(|ms: f64| ms / 1e3);
            }
        }
        let Some(number) = number else { return };
        if let Some(took) = took.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            let sent = at.checked_sub(took).unwrap_or(at);
            let took = Some(took);
            self.0.insert(number, Ping { sent, took });
        } else if line.contains("Unreachable") {
            self.0.remove(&number);
        } else if line.contains("no answer yet") {
            let sent = at.checked_sub(INTERVAL).unwrap_or(at);
            self.0.entry(number).or_insert(Ping { sent, took: None });
        }
    }

    /// When the first answer came. Pings before it may have waited for the
    /// guest's boot.
    #[must_use]
    pub fn first_answer(&self) -> Option<Instant> {
        self.0
            .values()
            .filter_map(|ping| Some(ping.sent + ping.took?))
            .min()
    }

    /// How long the pings took that were sent and answered between two
    /// moments, in the order they were sent.
    #[must_use]
    pub fn answers(&self, from: Instant, to: Instant) -> Vec<Duration> {
        self.0
            .values()
            .filter(|ping| ping.sent >= from)
            .filter_map(|ping| ping.took.filter(|took| ping.sent + *took <= to))
            .collect()
    }

    /// How many of the pings that were sent between two moments have no answer,
    /// although a later one was answered in that time.
    #[must_use]
    pub fn lost(&self, from: Instant, to: Instant) -> usize {
        let pings: Vec<&Ping> = self
            .0
            .values()
            .filter(|ping| ping.sent >= from && ping.sent <= to)
            .collect();
        let answered = |ping: &&Ping| ping.took.is_some_and(|took| ping.sent + took <= to);
        let last = pings.iter().rposition(answered).unwrap_or(0);
        pings[..last]
            .iter()
            .filter(|ping| ping.took.is_none())
            .count()
    }
}

/// Pings under way. They stop when this value is dropped.
#[derive(Debug)]
pub struct Pinger {
    process: LocalProcess,
    record: Arc<Mutex<PingRecord>>,
    thread: Option<JoinHandle<()>>,
}

impl Pinger {
    /// Starts to ping the guest from where clients are, whether it is up or
    /// not. What `ping` prints is logged.
    ///
    /// # Errors
    ///
    /// When `ping` cannot be started, or its log cannot be made.
    pub fn start(testbed: &Testbed) -> Result<Self> {
        let path = testbed.logs().join("ping.log");
        let log = File::options().append(true).create(true).open(&path);
        let log = log.map_err(|source| Error::File { path, source })?;
        let mut command = testbed.client().command("ping")?;
        let interval = INTERVAL.as_secs_f64().to_string();
        command
            .args(["-n", "-D", "-O", "-i", &interval, &GUEST.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = LocalProcess::start(command)?;
        let record = Arc::<Mutex<PingRecord>>::default();
        let thread = process.child().stdout.take().map(|output| {
            let record = Arc::clone(&record);
            thread::spawn(move || follow(output, log, &record))
        });
        Ok(Self {
            process,
            record,
            thread,
        })
    }

    /// What became of the pings up to now.
    #[must_use]
    pub fn record(&self) -> PingRecord {
        self.record.lock().clone()
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.process.kill();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the message is printed.
            let _ = thread.join();
        }
    }
}

fn follow(output: ChildStdout, mut log: File, record: &Mutex<PingRecord>) {
    for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
        record.lock().line(&line, Instant::now());
        // The log is for people; what counts is in the record.
        let _ = writeln!(log, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Lines at milliseconds after a moment.
    fn record(start: Instant, lines: &[(u64, &str)]) -> PingRecord {
        let mut record = PingRecord::default();
        for (at, line) in lines {
            record.line(line, start + ms(*at));
        }
        record
    }

    #[test]
    fn answers_count_where_they_were_sent_and_came() {
        let start = Instant::now();
        let record = record(
            start,
            &[
                (0, "PING 10.77.0.10 (10.77.0.10) 56(84) bytes of data."),
                (
                    100,
                    "From 10.77.0.100 icmp_seq=1 Destination Host Unreachable",
                ),
                (
                    1100,
                    "64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=900 ms",
                ),
                (
                    1203,
                    "64 bytes from 10.77.0.10: icmp_seq=3 ttl=64 time=3.00 ms",
                ),
                (1600, "[1795241094.5] no answer yet for icmp_seq=4"),
                (
                    1640,
                    "64 bytes from 10.77.0.10: icmp_seq=5 ttl=64 time=40.0 ms",
                ),
                (
                    1650,
                    "64 bytes from 10.77.0.10: icmp_seq=4 ttl=64 time=250 ms",
                ),
            ],
        );
        assert_eq!(record.first_answer(), Some(start + ms(1100)));
        let between = |from, to| record.answers(start + ms(from), start + ms(to));
        assert_eq!(between(1100, 2000), [ms(3), ms(250), ms(40)]);
        // Sent in the time, but answered after it.
        assert_eq!(between(1100, 1645), [ms(3), ms(40)]);
        assert_eq!(record.lost(start, start + ms(2000)), 0);
    }

    #[test]
    fn only_what_was_overtaken_is_lost() {
        let start = Instant::now();
        let record = record(
            start,
            &[
                (
                    203,
                    "64 bytes from 10.77.0.10: icmp_seq=1 ttl=64 time=3.00 ms",
                ),
                (600, "no answer yet for icmp_seq=2"),
                (
                    603,
                    "64 bytes from 10.77.0.10: icmp_seq=3 ttl=64 time=3.00 ms",
                ),
                (1000, "no answer yet for icmp_seq=4"),
            ],
        );
        assert_eq!(record.lost(start, start + ms(5000)), 1);
        assert_eq!(record.lost(start, start + ms(500)), 0);
        assert_eq!(record.lost(start + ms(5000), start + ms(6000)), 0);
    }

    #[test]
    fn what_was_never_sent_is_not_lost() {
        let start = Instant::now();
        let record = record(
            start,
            &[
                (400, "no answer yet for icmp_seq=1"),
                (600, "no answer yet for icmp_seq=2"),
                (
                    3400,
                    "From 10.77.0.100 icmp_seq=1 Destination Host Unreachable",
                ),
                (
                    3603,
                    "64 bytes from 10.77.0.10: icmp_seq=3 ttl=64 time=3.00 ms",
                ),
            ],
        );
        assert_eq!(record.lost(start, start + ms(5000)), 1);
    }
}
