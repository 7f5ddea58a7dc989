//! The client's side of one connection.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{CallError, ServerAddress};
use super::lines::{LineError, Lines, Patience};
use super::names::ServerNumber;
use super::protocol::{ErrorCode, Greeting, Request, Response, SERVICE, VERSION, encode};
use crate::stream;

/// A connection on which greetings were exchanged.
#[derive(Debug)]
pub(crate) struct Connection {
    address: ServerAddress,
    lines: Lines,
    server: Option<ServerNumber>,
}

impl Connection {
    /// Connects within `timeout`, and waits for the server's greeting as for an answer: who asks
    /// something of a server knows first which one it is.
    pub(crate) fn open(
        address: &ServerAddress,
        timeout: Duration,
        answer_timeout: Duration,
        cancel: Option<&AtomicBool>,
    ) -> Result<Connection, CallError> {
        let unreachable = |source| CallError::Unreachable {
            address: address.clone(),
            source,
        };
        if cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(CallError::Cancelled);
        }
        let stream = stream::connect(address, Instant::now() + timeout).map_err(unreachable)?;
        stream
            .set_write_timeout(Some(timeout))
            .map_err(unreachable)?;
        // If this fails, the server has closed already, and perhaps said why: that is found when its
        // answer is read.
        let _ = (&stream).write_all(&encode(&Greeting::ours()));
        let mut connection = Connection {
            address: address.clone(),
            lines: Lines::new(stream),
            server: None,
        };
        connection.read_greeting(answer_timeout, cancel)?;
        Ok(connection)
    }

    /// Asks, and waits for the answer. After an error the connection is of no more use: an answer
    /// that comes late would be taken for the next one's.
    pub(crate) fn call(
        &mut self,
        request: &Request,
        timeout: Duration,
        cancel: Option<&AtomicBool>,
    ) -> Result<Response, CallError> {
        if self.lines.pending() {
            return Err(self.not_an_arbiter("it answered what nobody asked"));
        }
        let written = self.lines.stream().write_all(&encode(request));
        let answer = self.line(timeout, cancel);
        match (answer.and_then(|line| self.parse_response(&line)), written) {
            // A server that closed before it took our request may have said why: what it said
            // comes first, and our own error only if it said nothing.
            (Err(CallError::Closed { address } | CallError::Lost { address, .. }), Err(source)) => {
                Err(CallError::Lost { address, source })
            }
            (answer, _) => answer,
        }
    }

    /// Which server it is, as its greeting said.
    pub(crate) fn server(&self) -> Option<ServerNumber> {
        self.server
    }

    fn read_greeting(
        &mut self,
        timeout: Duration,
        cancel: Option<&AtomicBool>,
    ) -> Result<(), CallError> {
        let line = self.line(timeout, cancel)?;
        let Ok(greeting) = serde_json::from_slice::<Greeting>(&line) else {
            // A server without room for us answers an error in place of its greeting.
            let response = self.parse_response(&line)?;
            return Err(self.not_an_arbiter(&format!("it began with {response:?}")));
        };
        if greeting.ftvm != SERVICE || greeting.version != VERSION {
            return Err(CallError::Version {
                address: self.address.clone(),
                theirs: format!("{:?} version {}", greeting.ftvm, greeting.version),
            });
        }
        self.server = greeting.server;
        Ok(())
    }

    fn parse_response(&self, line: &[u8]) -> Result<Response, CallError> {
        let address = self.address.clone();
        match serde_json::from_slice(line) {
            Ok(Response::Error { code, message }) => Err(match code {
                // A code of a later server says nothing about what was asked. To take it for a
                // refusal would halt both hosts of a pair: ask again.
                ErrorCode::Busy | ErrorCode::Storage | ErrorCode::TimedOut | ErrorCode::Unknown => {
                    CallError::Unable { address, message }
                }
                ErrorCode::Version => CallError::Version {
                    address,
                    theirs: message,
                },
                ErrorCode::Malformed
                | ErrorCode::TooLong
                | ErrorCode::Full
                | ErrorCode::Refused => CallError::Refused { address, message },
            }),
            Ok(response) => Ok(response),
            Err(_) => {
                let mut shown = String::from_utf8_lossy(line).escape_debug().to_string();
                shown.truncate(
                    shown
                        .char_indices()
                        .nth(60)
                        .map_or(shown.len(), |(at, _)| at),
                );
                Err(self.not_an_arbiter(&format!("it sent \"{shown}\"")))
            }
        }
    }

    fn line(
        &mut self,
        timeout: Duration,
        cancel: Option<&AtomicBool>,
    ) -> Result<Vec<u8>, CallError> {
        let patience = Patience {
            idle: timeout,
            line: timeout,
            cancel,
        };
        let address = self.address.clone();
        self.lines.next(patience).map_err(|error| match error {
            LineError::Closed | LineError::ClosedInLine => CallError::Closed { address },
            LineError::Idle(after) | LineError::Slow(after) => CallError::Silent { address, after },
            LineError::Cancelled => CallError::Cancelled,
            LineError::Io(source) => CallError::Lost { address, source },
            LineError::TooLong => self.not_an_arbiter("it sent a line without end"),
        })
    }

    fn not_an_arbiter(&self, what: &str) -> CallError {
        CallError::NotAnArbiter {
            address: self.address.clone(),
            what: what.to_owned(),
        }
    }
}
