//! A load that goes on while something else happens, and what its client sees of that.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use testbed::workload::Client;
use testbed::{Error, Result};

use super::driver::Driver;
use super::{agent, files};
use crate::workload::Workload;

/// Functions of the program that is compiled again and again: a compilation is to take much less than
/// what happens meanwhile.
const FUNCTIONS: u32 = 5;

/// A load under way. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) enum Load {
    /// Nobody asks the guest anything.
    Idle,
    /// A client increments a counter in Redis, one request after the other.
    Redis(Client),
    /// The guest compiles a small program, again and again.
    Compiler(Compiler),
}

#[derive(Debug)]
pub(crate) struct Compiler {
    /// Whether the next compilation is the last one.
    ends: Arc<AtomicBool>,
    reader: JoinHandle<std::io::Result<Vec<Instant>>>,
}

impl Load {
    /// Starts the driver's workload.
    pub(crate) fn start(driver: &Driver<'_>) -> Result<Self> {
        match driver.workload {
            Workload::RedisSet => {
                let client = Client::redis(driver.client);
                client.goes_on("of Redis")?;
                Ok(Self::Redis(client))
            }
            Workload::Compile => {
                files::prepare_compilation(driver, FUNCTIONS)?;
                // It ends when nobody takes its lines any more.
                let command = format!("while {} && echo done; do :; done", files::COMPILER);
                let stream = agent::start(driver, &command)?;
                let ends = Arc::new(AtomicBool::new(false));
                let asked = Arc::clone(&ends);
                let reader = thread::spawn(move || lines(stream, &asked));
                Ok(Self::Compiler(Compiler { ends, reader }))
            }
            _ => Ok(Self::Idle),
        }
    }

    /// Ends it, and gives when each operation was done.
    pub(crate) fn end(self) -> Result<Vec<Instant>> {
        match self {
            Self::Idle => Ok(Vec::new()),
            Self::Redis(client) => {
                let record = client.finish();
                match record.trouble {
                    None => Ok(record.replies.into_iter().map(|(at, _)| at).collect()),
                    Some(trouble) => Err(Error::Client {
                        what: "replies of Redis".to_owned(),
                        trouble,
                    }),
                }
            }
            Self::Compiler(Compiler { ends, reader }) => {
                ends.store(true, Ordering::Relaxed);
                let read = reader.join().expect("it does not panic");
                read.map_err(|error| agent::silent(files::COMPILER, &error))
            }
        }
    }
}

/// When each line came, until it shall end.
fn lines(stream: TcpStream, ends: &AtomicBool) -> std::io::Result<Vec<Instant>> {
    let mut all = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line != "done" {
            return Err(std::io::Error::other(line));
        }
        all.push(Instant::now());
        if ends.load(Ordering::Relaxed) {
            return Ok(all);
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// Operations in a second between two moments, of those that were done at `times`. One that was under way
/// counts for its part in that time.
pub(crate) fn rate(times: &[Instant], from: Instant, to: Instant) -> Option<f64> {
    let done = |moment: Instant| {
        let next = times.partition_point(|at| *at <= moment);
        let (before, after) = (times.get(next.checked_sub(1)?)?, times.get(next)?);
        let part = (moment - *before).as_secs_f64() / (*after - *before).as_secs_f64();
        Some(next as f64 + part)
    };
    Some((done(to)? - done(from)?) / (to - from).as_secs_f64())
}

/// The longest time between two operations, one of which at least was done between two moments.
pub(crate) fn longest_wait(times: &[Instant], from: Instant, to: Instant) -> Option<Duration> {
    let waits = times
        .windows(2)
        .filter(|pair| pair[1] > from && pair[0] < to);
    waits.map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_counts_for_its_part() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let times = [0, 1000, 2000, 2500, 6500, 7000].map(at);
        let rate = |from, to| rate(&times, at(from), at(to)).expect("there are enough");
        assert_eq!(rate(0, 2000), 1.0);
        assert_eq!(rate(2000, 2500), 2.0);
        // A half, one, and an eighth of the long one.
        assert_eq!(rate(1500, 3000), 1.625 / 1.5);
        assert_eq!(
            super::rate(&times, at(0), at(7000)),
            None,
            "nothing comes after it"
        );
        let wait = |from, to| longest_wait(&times, at(from), at(to));
        assert_eq!(wait(0, 2200), Some(Duration::from_secs(1)));
        assert_eq!(wait(2000, 3000), Some(Duration::from_secs(4)));
        assert_eq!(longest_wait(&[], at(0), at(1)), None);
    }
}
