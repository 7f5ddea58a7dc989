//! One `ftvm record` or `ftvm replay`, with what it reports.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::events::Compared;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A process could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run `ftvm {command}` for a test guest")]
pub struct ChildError {
    command: String,
    #[source]
    source: io::Error,
}

/// What of its events is looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Told {
    Ended {
        reason: String,
    },
    Replayed(Compared),
    Diverged {
        difference: String,
        likely_cause: Option<String>,
    },
    #[serde(other)]
    Other,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order.
    Well(Option<Compared>),
    /// With a difference, and its most likely cause.
    Diverged { difference: String, cause: String },
    /// This host refuses.
    Refused(String),
    /// In another way, in words.
    Badly(String),
    /// We were told to end.
    Interrupted,
}

/// Ends the process with this value.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It has ended, or is no use any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `ftvm` with `arguments`, for at most `limit`. What it says goes to the file `said`.
pub(super) fn run(
    arguments: &[String],
    said: &Path,
    limit: Duration,
    cancel: &AtomicBool,
) -> Result<Ending, ChildError> {
    let failed = |source| ChildError {
        command: arguments.join(" "),
        source,
    };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .args(arguments)
        .args(["--events", "-"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(said).map_err(failed)?);
    let mut child = Guard(command.spawn().map_err(failed)?);
    let events = child.0.stdout.take().expect("it was asked for");
    let (tell, told) = mpsc::channel();
    // It ends with the process, which has the only other end of the pipe.
    thread::Builder::new()
        .name("events".into())
        .spawn(move || {
            for line in BufReader::new(events).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && tell.send(event).is_err()
                {
                    return;
                }
            }
        })
        .map_err(failed)?;
    let began = Instant::now();
    let mut events = Vec::new();
    loop {
        match told.recv_timeout(LOOK) {
            Ok(Told::Other) => {}
            Ok(event) => events.push(event),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(Ending::Interrupted);
        }
        if began.elapsed() > limit {
            let seconds = limit.as_secs();
            return Ok(Ending::Badly(format!("it hangs: no end after {seconds} s")));
        }
    }
    // Standard output is closed by its end alone.
    let status = child.0.wait().map_err(failed)?;
    let said = std::fs::read_to_string(said).unwrap_or_default();
    Ok(ending(status, &events, last_words(&said)))
}

/// The line in which `ftvm` says why it ends.
fn last_words(said: &str) -> &str {
    let words = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("ftvm: "));
    words.or(said.lines().last()).unwrap_or_default()
}

fn ending(status: ExitStatus, events: &[Told], words: &str) -> Ending {
    if status.success() {
        let compared = events.iter().find_map(|event| match event {
            Told::Replayed(compared) => Some(*compared),
            _ => None,
        });
        let stopped = events
            .iter()
            .any(|event| matches!(event, Told::Ended { reason } if reason == "Stopped"));
        // By the signal that is meant for us too.
        return if stopped {
            Ending::Interrupted
        } else {
            Ending::Well(compared)
        };
    }
    let diverged = events.iter().find_map(|event| match event {
        Told::Diverged {
            difference,
            likely_cause,
        } => Some(Ending::Diverged {
            difference: difference.clone(),
            cause: likely_cause.clone().unwrap_or_default(),
        }),
        _ => None,
    });
    if let Some(diverged) = diverged {
        return diverged;
    }
    match (status.code(), status.signal()) {
        (Some(UNFIT), _) => Ending::Refused(words.into()),
        (Some(code), _) => Ending::Badly(format!("it ended with status {code}: {words}")),
        (None, Some(signal)) => Ending::Badly(format!("it was killed by signal {signal}: {words}")),
        (None, None) => Ending::Badly(words.into()),
    }
}

/// Exit status of a host that cannot do what is asked.
const UNFIT: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Told {
        serde_json::from_str(line).expect("an event")
    }

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn events_and_status_tell_how_it_ended() {
        let stats = told(r#"{"unix_ms":1,"event":"stats","guest_seconds":1.5,"exits":{"tsc":3}}"#);
        assert!(matches!(stats, Told::Other));
        let compared = Compared {
            exits: 7,
            pages: 9,
            ..Compared::default()
        };
        let line = serde_json::to_string(&crate::events::Event::Replayed(compared));
        let replayed = told(&line.expect("plain data"));
        assert_eq!(
            ending(exited(0), &[replayed], ""),
            Ending::Well(Some(compared))
        );
        let diverged = told(
            r#"{"event":"diverged","lsn":1,"difference":"rax","divergences":1,"likely_cause":"dust"}"#,
        );
        let Ending::Diverged { difference, cause } = ending(exited(4), &[diverged], "words") else {
            panic!("a divergence");
        };
        assert_eq!((&*difference, &*cause), ("rax", "dust"));
        let stopped = told(r#"{"event":"ended","reason":"Stopped","exits":1}"#);
        assert_eq!(ending(exited(0), &[stopped], ""), Ending::Interrupted);
        assert_eq!(ending(exited(2), &[], "no"), Ending::Refused("no".into()));
        let killed = ending(ExitStatus::from_raw(9), &[], "");
        assert!(matches!(killed, Ending::Badly(words) if words.contains("signal 9")));
    }

    #[test]
    fn the_last_words_are_those_of_the_program() {
        assert_eq!(last_words("[INFO] x\nftvm: no room\n[INFO] y\n"), "no room");
        assert_eq!(last_words("thread panicked\n"), "thread panicked");
        assert_eq!(last_words(""), "");
    }
}
