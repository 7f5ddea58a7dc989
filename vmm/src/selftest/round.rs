//! One guest, recorded and replayed.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::child::{self, Ending};
use super::error::SelftestError;
use super::report::{Outcome, RoundReport};
use super::trial::TestGuest;
use super::workshop::Workshop;

/// A guest that is recorded, then replayed.
pub(super) struct Round<'a> {
    number: usize,
    guest: TestGuest,
    workshop: &'a Workshop,
    cancel: &'a AtomicBool,
    /// What it said of its load.
    load: String,
    recorded_in: Option<Duration>,
    replayed_in: Option<Duration>,
    outcome: Option<Outcome>,
}

impl<'a> Round<'a> {
    /// A guest that was not recorded yet.
    pub(super) fn new(
        number: usize,
        guest: TestGuest,
        workshop: &'a Workshop,
        cancel: &'a AtomicBool,
    ) -> Self {
        Self {
            number,
            guest,
            workshop,
            cancel,
            load: String::new(),
            recorded_in: None,
            replayed_in: None,
            outcome: None,
        }
    }

    /// The same guest, with what it said when it was recorded.
    pub(super) fn recorded(self, load: String) -> Self {
        Self { load, ..self }
    }

    /// Records it to `log`; its disk is at the URI `swap`. Whether there is something to replay: what
    /// the guest says of itself, if it is bad, does not matter for that.
    pub(super) fn record(&mut self, log: &Path, swap: &str) -> Result<bool, SelftestError> {
        let console = self.workshop.file(self.number, "console");
        let mut arguments = vec!["record".to_owned()];
        arguments.extend(self.guest.arguments(self.workshop.images()));
        arguments.extend(self.workshop.allowed());
        if self.guest.swaps {
            arguments.extend(["--plain".into(), "--disk".into(), swap.into()]);
        }
        arguments.extend(["--console-log".into(), text(&console)]);
        arguments.extend(self.guest.manner());
        arguments.extend(["--log".into(), text(log)]);
        let (took, ending) = self.run(&arguments, "record")?;
        self.recorded_in = Some(took);
        if !matches!(ending, Ending::Well(_)) {
            self.outcome = Some(self.trouble(ending, "the recording", log)?);
            return Ok(false);
        }
        let console = fs::read(&console).unwrap_or_default();
        match self.guest.judge(&String::from_utf8_lossy(&console)) {
            Ok(load) => self.load = load.to_owned(),
            Err(what) => self.outcome = Some(Outcome::Failed { what }),
        }
        Ok(true)
    }

    /// Replays `log`, and compares all that it has.
    pub(super) fn replay(&mut self, log: &Path) -> Result<(), SelftestError> {
        let mut arguments = self.replay_arguments();
        arguments.push(text(log));
        let (took, ending) = self.run(&arguments, "replay")?;
        self.replayed_in = Some(took);
        let outcome = match ending {
            Ending::Well(Some(compared)) => Outcome::Equal(compared),
            ending => self.trouble(ending, "the replay", log)?,
        };
        self.outcome = Some(together(self.outcome.take(), outcome));
        Ok(())
    }

    fn replay_arguments(&self) -> Vec<String> {
        let guest = self.guest.arguments(self.workshop.images());
        let replay = ["replay".to_owned()].into_iter();
        replay.chain(guest).chain(self.workshop.allowed()).collect()
    }

    fn run(&self, arguments: &[String], what: &str) -> Result<(Duration, Ending), SelftestError> {
        log::info!("round {}, {}: {what}", self.number, self.guest.name);
        let said = self.workshop.file(self.number, what);
        let began = Instant::now();
        let ending = child::run(arguments, &said, self.guest.limit(), self.cancel)?;
        Ok((began.elapsed(), ending))
    }

    fn trouble(&self, ending: Ending, what: &str, log: &Path) -> Result<Outcome, SelftestError> {
        let private = |words: &str| self.workshop.without_paths(words, log);
        Ok(match ending {
            Ending::Diverged { difference, cause } => Outcome::Differs {
                difference: private(&difference),
                cause: private(&cause),
                before: None,
            },
            Ending::Badly(how) => Outcome::Failed {
                what: format!("{what}: {}", private(&how)),
            },
            Ending::Well(_) => Outcome::Failed {
                what: format!("{what} says nothing of what it compared"),
            },
            Ending::Refused(why) => return Err(SelftestError::Refused(private(&why))),
            Ending::Interrupted => return Err(SelftestError::Interrupted),
        })
    }

    /// What the recording is of.
    pub(super) fn of(&self) -> (TestGuest, String) {
        (self.guest.clone(), self.load.clone())
    }

    /// What came of it. The log goes, unless it is to stay or to be looked at.
    pub(super) fn finish(self, log: &Path, stays: bool) -> RoundReport {
        let report = RoundReport {
            round: self.number,
            guest: self.guest.name.clone(),
            load: self.load.clone(),
            recorded_s: self.recorded_in.map(|time| time.as_secs_f64()),
            replayed_s: self.replayed_in.map(|time| time.as_secs_f64()),
            outcome: self.outcome.clone().unwrap_or(Outcome::Failed {
                what: "it was not replayed".into(),
            }),
        };
        let equal = matches!(report.outcome, Outcome::Equal(_));
        log::log!(
            if equal {
                log::Level::Info
            } else {
                log::Level::Error
            },
            "{report}"
        );
        if equal || !self.workshop.keeps_another() {
            self.workshop.remove(self.number);
            if !stays {
                // If it cannot be removed now, it goes with the directory.
                let _ = fs::remove_file(log);
            }
        } else {
            let words = self.replay_arguments();
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            log::error!(
                "to look at it: ftvm {} {}; what was said: {}",
                words.join(" "),
                quoted(&text(log)),
                self.workshop.file(self.number, "replay").display()
            );
        }
        report
    }
}

/// What came of a round whose replay came to `replayed`; `recorded` is what was wrong before, if something was.
fn together(recorded: Option<Outcome>, replayed: Outcome) -> Outcome {
    match (recorded, replayed) {
        // Both are worth knowing: the difference has a cause, and what was wrong may be its first sign.
        (
            Some(Outcome::Failed { what }),
            Outcome::Differs {
                difference, cause, ..
            },
        ) => Outcome::Differs {
            difference,
            cause,
            before: Some(what),
        },
        (recorded, replayed) => recorded.unwrap_or(replayed),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// As a shell has to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Compared;

    #[test]
    fn a_difference_is_told_with_what_was_wrong_before() {
        let wrong = || Outcome::Failed {
            what: "the guest says `mix: WRONG page 3`".into(),
        };
        let differs = |before| Outcome::Differs {
            difference: "at exit 7".into(),
            cause: "dust".into(),
            before,
        };
        let before = Some("the guest says `mix: WRONG page 3`".into());
        assert_eq!(together(Some(wrong()), differs(None)), differs(before));
        assert_eq!(together(None, differs(None)), differs(None));
        let equal = || Outcome::Equal(Compared::default());
        assert_eq!(together(Some(wrong()), equal()), wrong());
        assert_eq!(together(None, equal()), equal());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/images/vmlinux"), "/images/vmlinux");
        assert_eq!(quoted("quiet a=b"), "'quiet a=b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
