//! The side that connects: takes what a backup would, and has the result.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use logging_channel::entry::Payload;
use logging_channel::receiver::{Next, Receiver};
use logging_channel::session::Confirmation;
use logging_channel::trial::marker_bytes;
use logging_channel::{HostReport, LossReason, Settings};
use transport::Endpoint;

use super::bare::{self, Answered};
use super::error::NetworkTestError;
use super::pressed::Watch;
use super::report::{Part, Report};
use super::session::identity;
use super::stage::{Stage, Word, piece};

/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often this end looks whether anything else came, where nothing does.
const LOOK: Duration = Duration::from_secs(1);

/// Tests the network with the one that listens at `address`. Each stage is told when it begins.
///
/// # Errors
/// [`NetworkTestError`].
pub fn test(
    address: SocketAddr,
    endpoint: &Endpoint,
    begins: impl FnMut(Stage),
) -> Result<Report, NetworkTestError> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    let name = identity();
    let receiver = Receiver::connect(
        (address, endpoint),
        (&name, &name.vm),
        &HostReport::default(),
        &Settings::default(),
        Instant::now() + PATIENCE,
        &NEVER,
        |_, _| Confirmation::Held,
    );
    let receiver = receiver
        .map_err(|error| NetworkTestError::of_session(address, PATIENCE.as_secs(), error))?;
    let bare = receiver.bare_sockets()?.into_iter().next();
    Test {
        bare: bare.ok_or_else(|| NetworkTestError::Nonsense("no memory stream".into()))?,
        report: Report::new(address, receiver.session().authenticated.as_ref()),
        receiver,
        begins,
        stage: None,
        is_over: false,
    }
    .run()
}

/// A test, at this end.
struct Test<F> {
    receiver: Receiver,
    bare: TcpStream,
    begins: F,
    /// The one that goes on, or has ended last.
    stage: Option<(Stage, Watch)>,
    report: Report,
    is_over: bool,
}

impl<F: FnMut(Stage)> Test<F> {
    fn run(mut self) -> Result<Report, NetworkTestError> {
        loop {
            match self.receiver.next(LOOK) {
                Next::Entry(lsn, entry) => {
                    self.receiver.executed(lsn);
                    if let Payload::ConsoleInput(line) = entry.payload {
                        self.heed(word(&line)?)?;
                    }
                }
                Next::TimedOut => {}
                Next::Ended(LossReason::Orderly) if self.is_over => {
                    return Ok(self.report);
                }
                Next::Ended(reason) => return Err(self.broken_off(&reason.to_string())),
                // Only what a cold backup keeps can be.
                Next::Damaged(how) => return Err(nonsense(&how)),
            }
        }
    }

    fn heed(&mut self, word: Word) -> Result<(), NetworkTestError> {
        match word {
            Word::Begins(stage) => {
                (self.begins)(stage);
                self.stage = Some((stage, Watch::begin()));
                let taken = match stage {
                    Stage::BareStream => bare::take(&self.bare, piece(), Answered::Last),
                    Stage::BareAnswers => {
                        bare::take(&self.bare, marker_bytes().len(), Answered::Each)
                    }
                    _ => Ok(()),
                };
                taken.map_err(|error| self.failed(&error))
            }
            Word::Ended(ran) => match &self.stage {
                Some((stage, watch)) if *stage == ran.stage => {
                    let pressed = watch.end();
                    self.report.parts.push(Part { ran, pressed });
                    Ok(())
                }
                _ => Err(nonsense(&"the end of a stage that has not begun")),
            },
            Word::Over(there) => {
                let here = self.receiver.stats().arrivals.into();
                self.report.heartbeats = Some((there, here));
                self.is_over = true;
                match self.report.is_whole() {
                    true => Ok(()),
                    false => Err(nonsense(&"the end before all stages")),
                }
            }
        }
    }

    /// Bare TCP failed, mostly because the session did.
    fn failed(&self, error: &io::Error) -> NetworkTestError {
        let session = self.receiver.lost();
        let why = session.map_or_else(|| error.to_string(), |reason| reason.to_string());
        self.broken_off(&why)
    }

    fn broken_off(&self, why: &str) -> NetworkTestError {
        NetworkTestError::BrokenOff {
            stage: self.stage.as_ref().map(|(stage, _)| *stage),
            why: why.to_owned(),
        }
    }
}

/// What the side that listens says.
pub(super) fn word(line: &[u8]) -> Result<Word, NetworkTestError> {
    serde_json::from_slice(line).map_err(|error| nonsense(&error))
}

fn nonsense(what: &dyn std::fmt::Display) -> NetworkTestError {
    // It goes to a terminal, and may have words of the other side's.
    NetworkTestError::Nonsense(what.to_string().replace(char::is_control, " "))
}
