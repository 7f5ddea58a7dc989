//! One `ftvm` of a pair, and what it tells about itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::client::Source;
use crate::error::Result;
use crate::host::Host;
use crate::process::{HostProcess, Line};
use crate::protocol::Exit;

/// How many lines of the end of standard error are remembered.
const LAST_WORDS: usize = 12;
/// An orderly end takes a moment.
const END: Duration = Duration::from_secs(30);

/// Figures that `ftvm` reports several times a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Stats {
    /// Seconds since the guest began to run on the host.
    pub guest_seconds: f64,
    /// Log entries so far.
    pub log_entries: u64,
    /// Bytes on the logging channel so far.
    pub log_bytes: u64,
    /// How far the backup is behind: now.
    pub lag_ms: f64,
    /// Median.
    pub lag_ms_p50: f64,
    /// 99th percentile.
    pub lag_ms_p99: f64,
    /// States transferred so far because the guest computed for too long
    /// without an exit.
    pub state_deltas: u64,
    /// Bytes of these on the logging channel so far.
    pub state_delta_bytes: u64,
    /// How long an input may wait for a guest that makes no exits, as the cost
    /// of the last state delta bounds it.
    pub latency_bound_ms: f64,
    /// Digests of the whole state so far, logged or compared.
    pub digests: u64,
    /// Whole states transferred so far.
    pub transfers: u64,
}

/// The events that matter here.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Role,
    PeerLost {
        reason: String,
    },
    Live,
    Lost {
        reason: String,
    },
    Stats(Stats),
    Ended {
        reason: String,
    },
    #[serde(other)]
    Other,
}

/// `ftvm` as primary or backup on a host.
#[derive(Debug)]
pub struct Side {
    role: &'static str,
    host: String,
    process: Option<HostProcess>,
    seen: Seen,
}

/// What a side has told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// It has its role, and the guest runs.
    pub(super) ready: Option<Instant>,
    /// It lost the other side: when, and why it says so.
    pub(super) peer_lost: Option<(Instant, String)>,
    /// It runs the guest alone.
    pub(super) live: Option<Instant>,
    /// Its newest figures.
    pub(super) stats: Option<Stats>,
    /// It ended, or said that it will: how.
    pub(super) ended: Option<String>,
    errors: VecDeque<String>,
}

impl Seen {
    fn line(&mut self, line: Line) {
        if line.source == Source::Stderr {
            if self.errors.len() == LAST_WORDS {
                self.errors.pop_front();
            }
            self.errors.push_back(line.text);
            return;
        }
        // The guest's console may be on standard output as well.
        let Ok(event) = serde_json::from_str(&line.text) else {
            return;
        };
        match event {
            Event::Role => self.ready = self.ready.or(Some(line.at)),
            Event::PeerLost { reason } => {
                self.peer_lost.get_or_insert((line.at, reason));
            }
            Event::Live => self.live = self.live.or(Some(line.at)),
            Event::Stats(stats) => self.stats = Some(stats),
            Event::Lost { reason } => {
                self.ended
                    .get_or_insert(format!("lost the right to run the guest: {reason}"));
            }
            Event::Ended { reason } => {
                self.ended.get_or_insert(format!("ended: {reason}"));
            }
            Event::Other => {}
        }
    }

    fn last_words(&self) -> String {
        self.errors
            .iter()
            .map(|line| format!("\n    {line}"))
            .collect()
    }
}

impl Side {
    /// Starts `ftvm` on a host.
    pub(super) fn start(host: &Host, role: &'static str, argv: &[&str]) -> Result<Self> {
        Ok(Self {
            role,
            host: host.name().to_owned(),
            process: Some(host.spawn(argv)?),
            seen: Seen::default(),
        })
    }

    /// Takes in what it has told since the last time.
    pub(super) fn look(&mut self) -> &Seen {
        while let Some(process) = &self.process {
            match process.lines().try_recv() {
                Ok(line) => self.seen.line(line),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.over(),
            }
        }
        &self.seen
    }

    fn over(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        let how = match process.wait(END) {
            Ok(Exit::Code(4)) => "its replay diverged (status 4)".to_owned(),
            Ok(exit) => exit.to_string(),
            Err(error) => error.to_string(),
        };
        self.seen.ended = Some(match self.seen.ended.take() {
            Some(said) => format!("{said}; {how}"),
            None => how,
        });
    }

    /// Why it is not fit to go on, if so.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.look();
        let ended = self.seen.ended.clone()?;
        // It says that it ends before it does; its last words come between.
        let deadline = Instant::now() + END;
        while let Some(process) = &self.process {
            match process.lines().recv_deadline(deadline) {
                Ok(line) => self.seen.line(line),
                Err(_) => break,
            }
        }
        self.look();
        Some(format!(
            "{} on {}: {}{}",
            self.role,
            self.host,
            self.seen.ended.as_ref().unwrap_or(&ended),
            self.seen.last_words()
        ))
    }

    /// Ends the guest in order; `ftvm` is killed if it does not end.
    pub(super) fn stop(mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGTERM)?;
            let exit = process.wait(END)?;
            if !exit.success() {
                log::warn!("{} on {}: {exit} at its end", self.role, self.host);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for text in lines {
            seen.line(Line {
                source: Source::Stdout,
                text: (*text).to_owned(),
                at: Instant::now(),
            });
        }
        seen
    }

    #[test]
    fn events_are_understood() {
        let seen = told(&[
            r#"{"unix_ms":1,"event":"role","role":"backup","epoch":1}"#,
            r#"{"unix_ms":2,"event":"stats","guest_seconds":1.5,"log_entries":7,"log_bytes":99,
                "lag_ms":0.0,"lag_ms_p50":1.0,"lag_ms_p99":2.0,"state_deltas":3,"state_delta_bytes":4096,"stalled_ms":0.0,"throttled_ms":0.0}"#,
            r#"{"unix_ms":3,"event":"peer-lost","reason":"silence"}"#,
            r#"{"unix_ms":4,"event":"waiting","reason":"the disk server"}"#,
            r#"{"unix_ms":5,"event":"live","epoch":2,"after_loss_ms":1,"resent_frames":0}"#,
        ]);
        assert!(seen.ready.is_some() && seen.live.is_some());
        assert_eq!(seen.peer_lost.expect("told").1, "silence");
        let stats = seen.stats.expect("told");
        assert_eq!(stats.log_bytes, 99);
        assert_eq!((stats.state_deltas, stats.state_delta_bytes), (3, 4096));
        assert_eq!(seen.ended, None);
    }

    #[test]
    fn an_end_is_remembered_and_noise_is_not() {
        let seen = told(&[
            "login:",
            "{",
            r#"{"event":"ended","reason":"Failed: x","exits":0}"#,
        ]);
        assert_eq!(seen.ended.as_deref(), Some("ended: Failed: x"));
        assert!(seen.ready.is_none());
    }
}
