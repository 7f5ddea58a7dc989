//! Runs a command for each transition that the service's journal has.
//!
//! The journal is the one place that knows of every transition, gives it a number, and outlives the hosts, so this
//! follows the journal as any client may. It is no part of the service: what decides who may run a guest starts no
//! programs.
//!
//! ```text
//!     journal  … 41 42 43 44        command
//!     told  41     | --- 42 -------> | one at a time, in order
//!                  | <-- its end --- |
//!     told  42     | --- 43 -------> |
//! ```
//!
//! The number is kept when its command has ended. After a loss in between the same transition is told again: never
//! is one left out for that. Its time is kept, too: a service that was restored from an older state gives the same
//! numbers to other transitions, which are then those that are later.

mod told;

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::fleet::{Entry, Subject};
use disk_server::views::PING_INTERVAL;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use self::told::Mark;
pub use self::told::{Told, ToldError};
use super::client::{Client, ClientError};
use super::json;

/// So many transitions wait for the command at most. Of more the oldest are left out, and counted.
pub const MAX_WAITING: usize = 1000;

/// How long the command may take for a transition.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the command has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Why transitions are not told any more.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The service does not tell.
    #[error(transparent)]
    Service(#[from] ClientError),
    /// It cannot be kept what was told.
    #[error(transparent)]
    Told(#[from] ToldError),
}

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it cannot be run")]
    Start(#[source] io::Error),
    #[error("it was killed after {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Status(ExitStatus),
    /// Nobody waits for it any more.
    #[error("this process ends")]
    Ending,
}

/// Transitions that are to be told, the oldest first.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    entries: Vec<Entry>,
    /// So many before them are not.
    left_out: u64,
}

impl Waiting {
    /// Those behind the number `told`, of which these are the latest, the latest first.
    fn of(mut latest: Vec<Entry>, told: u64) -> Self {
        latest.reverse();
        let first = latest.first().map_or(told + 1, |first| first.number);
        Self {
            left_out: first.saturating_sub(told + 1),
            entries: latest,
        }
    }
}

/// Tells of transitions until `cancel` is set.
pub struct Notifier<'a> {
    /// Where the journal is.
    pub client: &'a Client,
    /// The program, and its arguments.
    pub command: &'a [String],
    /// How long it may take.
    pub time_limit: Duration,
    /// Ends this.
    pub cancel: &'a AtomicBool,
}

impl Notifier<'_> {
    /// Runs the command for each transition behind the one that was told last; from now on if none was.
    ///
    /// # Errors
    /// [`NotifyError`]. That the service does not answer is none, nor that the command fails.
    pub fn follow(&self, told: &mut Told) -> Result<(), NotifyError> {
        let (mut answers, mut starts) = (true, true);
        while !self.is_cancelled() {
            match self.waiting(told) {
                Ok(waiting) => {
                    if !std::mem::replace(&mut answers, true) {
                        log::info!("the service answers again");
                    }
                    self.tell(waiting, told, &mut starts)?;
                }
                Err(NotifyError::Service(error @ ClientError::Unreachable(_))) => {
                    if std::mem::replace(&mut answers, false) {
                        let error = anyhow::Error::from(error);
                        let meanwhile = match told.last {
                            Some(_) => "what happens meanwhile is told later",
                            None => "transitions are told from when it first answers",
                        };
                        log::warn!("{error:#}; {meanwhile}");
                    }
                }
                Err(error) => return Err(error),
            }
            thread::sleep(PING_INTERVAL);
        }
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn waiting(&self, told: &mut Told) -> Result<Waiting, NotifyError> {
        let mut count = 0;
        // The latest one that is not to be told.
        let mut known = None;
        let last = told.last;
        let entries = self.client.history(None, |entry| {
            count += 1;
            let is_new = last.is_some_and(|last| last.is_before(entry));
            if !is_new {
                known = Some(Mark::of(entry));
            }
            is_new && count <= MAX_WAITING
        })?;
        let Some(last) = last else {
            let now = known.unwrap_or_default();
            told.keep(now)?;
            return Ok(Waiting::of(entries, now.number));
        };
        let from = match (known, entries.last()) {
            (Some(known), _) if known == last => last.number,
            (None, oldest) if oldest.is_none_or(|oldest| oldest.number > last.number) => {
                last.number
            }
            (known, oldest) => {
                let number = last.number;
                log::warn!(
                    "the journal does not have transition {number}, which was told: it is another one, \
                     of which what is later is told"
                );
                if let Some(known) = known {
                    told.keep(known)?;
                }
                let before_oldest = oldest.map_or(0, |oldest| oldest.number - 1);
                known.map_or(before_oldest, |known| known.number)
            }
        };
        Ok(Waiting::of(entries, from))
    }

    /// `starts`: whether the command could be started the last time.
    fn tell(
        &self,
        waiting: Waiting,
        told: &mut Told,
        starts: &mut bool,
    ) -> Result<(), NotifyError> {
        let mut left_out = waiting.left_out;
        if left_out > 0 {
            log::warn!("{left_out} transitions are left out: too many wait for the command");
        }
        for entry in waiting.entries {
            if self.is_cancelled() {
                return Ok(());
            }
            let ran = self.run(&entry, left_out);
            let did_start = *starts;
            *starts = !matches!(ran, Err(Failure::Start(_)));
            match ran {
                Ok(()) => {}
                // It is told again.
                Err(Failure::Ending) => return Ok(()),
                Err(failure @ Failure::Start(_)) => {
                    if did_start {
                        let failure = anyhow::Error::from(failure);
                        log::error!("{failure:#}: nothing is told before it can");
                    }
                    return Ok(());
                }
                Err(failure) => {
                    let failure = anyhow::Error::from(failure);
                    log::warn!(
                        "the command fails for transition {}: {failure:#}",
                        entry.number
                    );
                }
            }
            left_out = 0;
            told.keep(Mark::of(&entry))?;
        }
        Ok(())
    }

    fn run(&self, entry: &Entry, left_out: u64) -> Result<(), Failure> {
        let fields = json::entry(entry);
        let word = |field: &str| fields[field].as_str().unwrap_or_default();
        let (subject, name) = match &entry.subject {
            Subject::Vm(vm) => ("FTVM_VM", vm.as_str()),
            Subject::Host(host) => ("FTVM_HOST", host.as_str()),
        };
        let (program, arguments) = self.command.split_first().expect("a command has a program");
        let mut child = Command::new(program)
            .args(arguments)
            .env("FTVM_NUMBER", entry.number.to_string())
            .env("FTVM_EVENT", word("event"))
            .env("FTVM_WORDS", word("words"))
            .env("FTVM_LEFT_OUT", left_out.to_string())
            .env_remove("FTVM_VM")
            .env_remove("FTVM_HOST")
            .env(subject, name)
            .stdin(Stdio::piped())
            // With all that it starts.
            .process_group(0)
            .spawn()
            .map_err(Failure::Start)?;
        if let Some(mut input) = child.stdin.take() {
            // A pipe has room for it, and a command need not read it.
            let _ = writeln!(input, "{fields}");
        }
        self.end_of(&mut child)
    }

    fn end_of(&self, child: &mut Child) -> Result<(), Failure> {
        let until = Instant::now() + self.time_limit;
        loop {
            match child.try_wait().map_err(Failure::Start)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failure::Status(status)),
                None => {}
            }
            let failure = match (self.is_cancelled(), Instant::now() >= until) {
                (true, _) => Failure::Ending,
                (false, true) => Failure::Late(self.time_limit),
                (false, false) => {
                    thread::sleep(LOOK);
                    continue;
                }
            };
            // It is not waited for yet, so the number is its own.
            let group = Pid::from_raw(child.id().cast_signed());
            match (killpg(group, Signal::SIGKILL), failure) {
                (Ok(()), failure) => {
                    child.wait().map_err(Failure::Start)?;
                    return Err(failure);
                }
                // One with another user's rights is left alone,
                (Err(_), Failure::Ending) => return Err(Failure::Ending),
                // or waited for.
                (Err(_), _) => thread::sleep(LOOK),
            }
        }
    }
}

#[cfg(test)]
mod tests;
