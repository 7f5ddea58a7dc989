//! `ftvm` on a host, as primary or backup, and what it tells about itself.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Signal;
use crate::connection::Source;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::process::{HostProcess, Line};
use crate::protocol::Exit;
use crate::wait::{LIMIT, wait_until};

/// How often it is looked at what it has told.
const POLL: Duration = Duration::from_millis(20);
/// How many lines of the end of standard error make the last words.
const LAST_WORDS: usize = 12;

/// Figures that `ftvm` reports several times a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ReportedStats {
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
    /// How long frames and console input waited for the guest so far: median.
    pub input_wait_ms_p50: f64,
    /// 99th percentile.
    pub input_wait_ms_p99: f64,
    /// Longest wait.
    pub input_wait_ms_max: f64,
    /// Time for which the guest was held up so far because the backup lagged too far.
    pub throttled_ms: f64,
    /// Digests of the whole state so far, logged or compared.
    pub digests: u64,
    /// Whole states transferred so far.
    pub transfers: u64,
    /// Reads of the guest's disk that were left to the backup so far.
    pub disk_shared_reads: u64,
}

/// `ftvm` on a host, as primary or backup, and what it has told. It is killed
/// when this value is dropped.
#[derive(Debug)]
pub struct Side {
    host: String,
    process: HostProcess,
    lines: Receiver<Line>,
    told: Told,
}

/// What an `ftvm` has told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Its events, without the figures.
    pub events: Vec<Value>,
    /// When each of the events arrived.
    arrivals: Vec<Instant>,
    /// Its newest figures.
    pub stats: Option<ReportedStats>,
    /// All its figures as they came, once somebody wants them.
    kept: Option<Vec<(Instant, Value)>>,
    /// Lines on its standard output that are no events: the guest's console, with `--console`.
    pub console: Vec<Line>,
    /// Its standard error.
    pub errors: String,
}

impl Told {
    fn line(&mut self, line: &Line) {
        if line.source == Source::Stderr {
            self.errors.push_str(&line.text);
            self.errors.push('\n');
            return;
        }
        match serde_json::from_str(&line.text) {
            Ok(event @ Value::Object(_)) if event["event"] == "stats" => {
                self.stats = ReportedStats::deserialize(&event).ok().or(self.stats);
                if let Some(kept) = &mut self.kept {
                    kept.push((line.at, event));
                }
            }
            Ok(event @ Value::Object(_)) => self.take(event, line.at),
            _ => self.console.push(line.clone()),
        }
    }

    /// Takes in an event that is no figures.
    pub(crate) fn take(&mut self, event: Value, at: Instant) {
        self.events.push(event);
        self.arrivals.push(at);
    }

    /// The events of a kind after the first `seen` events of any, and when each of them arrived.
    pub fn after<'a>(
        &'a self,
        seen: usize,
        kind: &str,
    ) -> impl Iterator<Item = (Instant, &'a Value)> {
        let events = self.arrivals.iter().copied().zip(&self.events);
        events
            .skip(seen)
            .filter(move |(_, event)| event["event"] == kind)
    }

    /// The first event of a kind.
    #[must_use]
    pub fn event(&self, kind: &str) -> Option<&Value> {
        self.after(0, kind).next().map(|(_, event)| event)
    }

    /// When the first event of a kind arrived.
    #[must_use]
    pub fn when(&self, kind: &str) -> Option<Instant> {
        self.after(0, kind).next().map(|(at, _)| at)
    }

    /// The end of its standard error, a line each.
    pub(crate) fn last_words(&self) -> String {
        let lines: Vec<&str> = self.errors.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        last.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Whether there was an event of a kind.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.event(kind).is_some()
    }
}

impl Side {
    pub(super) fn start(host: &Host, argv: &[String]) -> Result<Self> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let process = host.spawn(&argv)?;
        Ok(Self {
            host: host.name().to_owned(),
            lines: process.lines().clone(),
            process,
            told: Told::default(),
        })
    }

    /// One that somebody else has started, by the files into which it writes its events and its standard
    /// error. How it ends is not seen.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn followed(host: &Host, events: &str, log: &str) -> Result<Self> {
        let follow =
            "exec 3< \"$1\" 4< \"$2\"; while :; do cat <&3; cat <&4 >&2; usleep 100000; done";
        let argv = ["sh", "-c", follow, "sh", events, log];
        Self::start(host, &argv.map(str::to_owned))
    }

    /// What it has told up to now.
    pub fn told(&mut self) -> &Told {
        self.look();
        &self.told
    }

    /// Takes in what it has told; whether it can still tell more.
    fn look(&mut self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.told.line(&line),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Forgets the events that it has told up to now: those that are looked for are others.
    pub fn forget_events(&mut self) {
        self.look();
        self.told.events.clear();
        self.told.arrivals.clear();
    }

    /// Types a line at the guest's console, with `--console`.
    ///
    /// # Errors
    ///
    /// When its host does not answer.
    pub fn type_line(&self, line: &str) -> Result<()> {
        self.process.write(format!("{line}\n").as_bytes())
    }

    /// Waits until a line with a text has come from the guest's console, with `--console`.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for_console(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("`{text}` at the console"), limit, |told| {
            let mut lines = told.console.iter();
            lines.any(|line| line.text.contains(text)).then_some(())
        })
    }

    /// Keeps all its figures from now on, for [`Side::take_figures`].
    pub fn keep_figures(&mut self) {
        self.told.kept.get_or_insert_default();
    }

    /// Takes the figures that arrived since this was asked last, and when each of them did: its
    /// `stats` events. There are none before [`Side::keep_figures`].
    pub fn take_figures(&mut self) -> Vec<(Instant, Value)> {
        self.look();
        self.told
            .kept
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Waits for an event of a kind (the first one, if there were several).
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        self.wait_until(&format!("event `{kind}`"), limit, |told| {
            told.event(kind).cloned()
        })
    }

    /// Waits until its standard error contains a text.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for_error(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("`{text}`"), limit, |told| {
            told.errors.contains(text).then_some(())
        })
    }

    /// Waits until it has told what `condition` looks for; `what` names that.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Told) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let goes_on = self.look();
            if let Some(found) = condition(&self.told) {
                return Ok(found);
            }
            if !goes_on || Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("{what} of `ftvm` on host {}", self.host),
                    limit,
                    seen: format!("{:?}\n{}", self.told.events, self.told.errors),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !self.look()
    }

    /// Why it is not fit to go on, if so: it lost the right to run the guest, or it ended.
    pub fn trouble(&mut self) -> Option<String> {
        let goes_on = self.look();
        if goes_on && !self.told.has("lost") && !self.told.has("ended") {
            return None;
        }
        // It says that it ends before it does; its last words come between.
        let deadline = Instant::now() + LIMIT;
        while let Ok(line) = self.lines.recv_deadline(deadline) {
            self.told.line(&line);
        }
        let said = [
            ("lost", "lost the right to run the guest"),
            ("ended", "ended"),
        ]
        .into_iter()
        .find_map(|(kind, words)| {
            let reason = &self.told.event(kind)?["reason"];
            Some(format!("{words}: {}; ", reason.as_str().unwrap_or("")))
        });
        let exit = self.process.last_word(LIMIT);
        Some(format!(
            "`ftvm` on host {}: {}{}{}",
            self.host,
            said.unwrap_or_default(),
            exit.as_deref().unwrap_or("it does not end"),
            self.told.last_words()
        ))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When its host does not answer.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends the guest in order, as if its power were switched off; `ftvm` is killed if it does not
    /// end.
    ///
    /// # Errors
    ///
    /// When its host does not answer, or it does not end, or not with status 0.
    pub fn stop(self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.ends_in_order()
    }

    /// Waits for its end, because its guest ends in order; it is killed if it does not end.
    ///
    /// # Errors
    ///
    /// When its host does not answer, or it does not end, or not with status 0.
    pub fn ends_in_order(self) -> Result<()> {
        let host = self.host.clone();
        let (exit, told) = self.end(LIMIT)?;
        if exit.success() {
            return Ok(());
        }
        Err(Error::Failed {
            host,
            command: "ftvm".to_owned(),
            exit,
            output: told.last_words(),
        })
    }

    /// Waits for its end, and gives its exit status and all that it has told.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`, or its host is gone.
    pub fn end(self, limit: Duration) -> Result<(Exit, Told)> {
        let Self {
            process,
            lines,
            mut told,
            ..
        } = self;
        let exit = process.wait(limit);
        lines.iter().for_each(|line| told.line(&line));
        match exit {
            Ok(exit) => Ok((exit, told)),
            Err(Error::Timeout { what, limit, .. }) => Err(Error::Timeout {
                what,
                limit,
                seen: format!("{:?}\n{}", told.events, told.errors),
            }),
            Err(error) => Err(error),
        }
    }
}

/// Which of two sides goes on alone, and what the other one did.
#[derive(Debug)]
pub struct Outcome {
    /// The side that runs the guest.
    pub winner: Side,
    /// Whether that is the first of the two.
    pub first_won: bool,
    /// How the other one ended.
    pub loser: Exit,
    /// What the other one told.
    pub loser_told: Told,
}

/// Waits until one of two sides has gone live and the other one has ended.
///
/// # Errors
///
/// When that does not happen within `limit`.
pub fn one_goes_on(mut first: Side, mut second: Side, limit: Duration) -> Result<Outcome> {
    wait_until("that one goes on and the other ends", limit, || {
        let lives = [&mut first, &mut second].map(|side| side.told().has("live"));
        let ends = [&mut first, &mut second].map(Side::has_ended);
        Ok((lives[0] && ends[1]) || (lives[1] && ends[0]))
    })?;
    let first_won = !first.has_ended();
    let (winner, loser) = if first_won {
        (first, second)
    } else {
        (second, first)
    };
    let (loser, loser_told) = loser.end(limit)?;
    Ok(Outcome {
        winner,
        first_won,
        loser,
        loser_told,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_and_of_the_figures_the_newest() {
        let mut told = Told::default();
        let line = |source, text: &str| Line {
            source,
            text: text.to_owned(),
            at: Instant::now(),
        };
        told.line(&line(Source::Stdout, r#"{"event":"stats","lag_ms":1.0}"#));
        told.line(&line(Source::Stdout, r#"{"event":"live","epoch":2}"#));
        told.line(&line(Source::Stdout, "noise"));
        told.line(&line(Source::Stderr, "ftvm: no"));
        assert_eq!(told.events.len(), 1);
        assert_eq!(told.stats.expect("told").lag_ms, 1.0);
        assert_eq!(told.event("live").expect("told")["epoch"], 2);
        assert!(!told.has("lost"));
        assert!(told.when("live").is_some() && told.when("lost").is_none());
        assert_eq!(told.errors, "ftvm: no\n");
    }
}
