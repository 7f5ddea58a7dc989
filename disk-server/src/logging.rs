//! The log, for which nobody waits, and which no client can fill.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

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

/// Starts to log what `RUST_LOG` asks for, or everything from the level of information on, on standard
/// error.
///
/// Who logs does not wait for who reads: a pipe that is full would stop whatever holds a lock, or
/// decides a claim, at its next line. What the reader does not take is dropped, and told by number
/// at the place. [`end`] is to be called at the end of the process.
///
/// # Panics
/// The process has a log already.
pub fn start() {
    let environment = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(environment);
    if io::stderr().is_terminal() && std::env::var_os("RUST_LOG_STYLE").is_none() {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    to_stderr(&mut builder).init();
}

/// The same for a program that chose what it logs: on standard error, without waiting. For the journal of systemd
/// a line begins with its level as that wants it (sd-daemon(3)), and has no time, as the journal has that.
pub fn to_stderr(builder: &mut env_logger::Builder) -> &mut env_logger::Builder {
    if is_journal(std::env::var_os("JOURNAL_STREAM"), &io::stderr()) {
        builder.format(|line, record| {
            let level = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            writeln!(line, "<{level}>{}: {}", record.target(), record.args())
        });
    }
    let stderr = crate::lossy_writer::stderr().clone();
    builder.target(env_logger::Target::Pipe(Box::new(stderr)))
}

/// Whether `output` is what systemd has named in the environment, as the device and the inode of its journal's socket
/// (systemd.exec(5), `JOURNAL_STREAM`). Programs that a service starts have its environment, and other outputs.
fn is_journal(named: Option<OsString>, output: &impl AsFd) -> bool {
    let is = |named: OsString| {
        let (device, inode) = named.to_str()?.split_once(':')?;
        let is_this = rustix::fs::fstat(output).ok()?;
        Some(device.parse() == Ok(is_this.st_dev) && inode.parse() == Ok(is_this.st_ino))
    };
    named.and_then(is).unwrap_or(false)
}

/// Waits until the log is taken, for at most two seconds.
pub fn end() {
    crate::lossy_writer::finish(LAST_LINES);
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
    fn the_journal_is_known_by_its_inode() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let is_this = rustix::fs::fstat(&file).unwrap();
        let named = OsString::from(format!("{}:{}", is_this.st_dev, is_this.st_ino));
        assert!(is_journal(Some(named.clone()), &file));
        assert!(!is_journal(Some(named), &other));
        for nonsense in ["", "8", "8:", ":8", "x:y"] {
            assert!(!is_journal(Some(nonsense.into()), &file), "{nonsense}");
        }
        assert!(!is_journal(None, &file));
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
