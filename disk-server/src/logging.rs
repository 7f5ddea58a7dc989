//! A log that nobody waits for, and that no client can fill.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// How many lines wait for whoever reads the log. Further ones are dropped, and counted.
const WAITING: usize = 4096;

/// How long the end of the process waits for the last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The most of a client's text that is told in one line, in bytes.
const EXCERPT: usize = 100;

/// Text that came from outside, for a line of the log: without control characters, and of a long one
/// the beginning.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let end = text.floor_char_boundary(EXCERPT);
    let more = if end < text.len() { "…" } else { "" };
    let clean = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let shown: String = text[..end].chars().map(clean).collect();
    format!("\"{shown}\"{more}")
}

/// Lines of one kind, which anybody could cause at any rate: lets some of them into the log, and counts
/// the others.
#[derive(Debug)]
pub struct Limited(Mutex<Rate>);

#[derive(Debug)]
struct Rate {
    /// How many may follow at once.
    ready: u32,
    since: Option<Instant>,
    left_out: u64,
}

/// How many lines were left out before one that is not; as text, nothing where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(u64);

impl Limited {
    /// So many lines are told one after the other.
    const BURST: u32 = 10;
    /// And from then on one in this time.
    const EVERY: Duration = Duration::from_secs(10);

    /// No line was told yet.
    #[must_use]
    pub const fn new() -> Limited {
        Limited(Mutex::new(Rate {
            ready: Self::BURST,
            since: None,
            left_out: 0,
        }))
    }

    /// Whether a line is to be told, and then with what.
    #[must_use]
    pub fn let_through(&self) -> Option<LeftOut> {
        self.let_through_at(Instant::now())
    }

    fn let_through_at(&self, now: Instant) -> Option<LeftOut> {
        let mut rate = self.0.lock();
        let since = *rate.since.get_or_insert(now);
        let more = now.saturating_duration_since(since).as_secs() / Self::EVERY.as_secs();
        if more > 0 {
            let more = more.min(Self::BURST.into()) as u32;
            rate.ready = (rate.ready + more).min(Self::BURST);
            rate.since = Some(now);
        }
        if rate.ready == 0 {
            rate.left_out += 1;
            return None;
        }
        rate.ready -= 1;
        Some(LeftOut(std::mem::take(&mut rate.left_out)))
    }
}

impl Default for Limited {
    fn default() -> Self {
        Limited::new()
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => write!(f, " (1 more like this before)"),
            more => write!(f, " ({more} more like this before)"),
        }
    }
}

/// The log of a process, on standard error.
///
/// Who logs does not wait for who reads: a pipe that is full would stop whatever holds a lock, or
/// decides a claim, at its next line. What the reader does not take is dropped, and told by number
/// when it reads on.
#[derive(Debug)]
pub struct Log {
    writer: NonBlocking,
    guard: Option<WorkerGuard>,
}

impl Log {
    /// Starts to log what `RUST_LOG` asks for, or everything from the level of information on.
    ///
    /// # Panics
    /// The process has a log already.
    #[must_use]
    pub fn start() -> Log {
        let dropped = Arc::new(OnceLock::new());
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING)
            .thread_name("log")
            .finish(Telling {
                to: io::stderr(),
                dropped: Arc::clone(&dropped),
                told: 0,
            });
        let _ = dropped.set(writer.error_counter());
        let environment = env_logger::Env::default().default_filter_or("info");
        let mut builder = env_logger::Builder::from_env(environment);
        if io::stderr().is_terminal() && std::env::var_os("RUST_LOG_STYLE").is_none() {
            builder.write_style(env_logger::WriteStyle::Always);
        }
        builder
            .target(env_logger::Target::Pipe(Box::new(writer.clone())))
            .init();
        Log {
            writer,
            guard: Some(guard),
        }
    }

    /// Writes a line as it is, for whatever level of the log.
    pub fn say(&self, line: &str) {
        // Does not fail: what cannot be written is dropped.
        let _ = self
            .writer
            .clone()
            .write_all(format!("{line}\n").as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        let guard = self.guard.take();
        // Elsewhere, and with a limit: it may print, and so wait for a reader itself.
        let ending = thread::Builder::new().spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        if ending.is_ok() {
            let _ = is_done.recv_timeout(LAST_LINES);
        }
    }
}

/// Tells how many lines were dropped before the next one that is not.
struct Telling<W> {
    to: W,
    dropped: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

impl<W: Write> Write for Telling<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        let lost = dropped - self.told;
        if lost > 0 {
            self.told = dropped;
            writeln!(
                self.to,
                "{lost} lines of this log were dropped, because nobody read it for a while"
            )?;
        }
        self.to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("disk"), "\"disk\"");
        assert_eq!(excerpt("a\nb"), "\"a\u{fffd}b\"");
        for character in ["x", "\0", "\u{200b}", "€"] {
            let shown = excerpt(&character.repeat(1 << 16));
            assert!(shown.len() < 4 * EXCERPT && shown.ends_with('…'), "{shown}");
            assert!(!shown.contains(char::is_control), "{shown}");
        }
    }

    #[test]
    fn beyond_a_rate_lines_are_counted() {
        let limited = Limited::new();
        let start = Instant::now();
        let told = (0..1000).filter_map(|_| limited.let_through_at(start));
        assert_eq!(told.count(), Limited::BURST as usize);
        let later = start + Limited::EVERY;
        let left_out = limited.let_through_at(later).unwrap();
        assert_eq!(left_out, LeftOut(990));
        assert!(left_out.to_string().contains("990 more"));
        assert!(limited.let_through_at(later).is_none());
        // A pause gives back a burst, and no more.
        let later = later + 1000 * Limited::EVERY;
        let told = (0..1000).filter_map(|_| limited.let_through_at(later));
        assert_eq!(told.count(), Limited::BURST as usize);
    }
}
