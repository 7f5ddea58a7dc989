//! The client's side of one connection.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use transport::{ConnectionError, Endpoint, Opening, Patience as Waiting, Peer, Service};

use super::address::ServerAddress;
use super::lines::{LineError, Lines, Patience};
use super::names::ServerNumber;
use super::protocol::{ErrorCode, Greeting, Request, Response, VERSIONS};
use crate::stream;

/// Why a single call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection came about.
    #[error("cannot connect to the disk server at {address}")]
    Unreachable {
        /// The server.
        address: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the disk server that it should be, or does not take this side for one that it serves.
    #[error("the disk server at {address} opens no connection")]
    Unopened {
        /// The server.
        address: ServerAddress,
        /// Why.
        source: ConnectionError,
    },
    /// The connection broke.
    #[error("lost the connection to the disk server at {address}")]
    Lost {
        /// The server.
        address: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended the connection without an answer.
    #[error("the disk server at {address} closed the connection without an answer")]
    Closed {
        /// The server.
        address: ServerAddress,
    },
    /// No answer came in time.
    #[error("the disk server at {address} did not answer within {after:?}")]
    Silent {
        /// The server.
        address: ServerAddress,
        /// How long it was given.
        after: Duration,
    },
    /// The server says that it cannot answer now.
    #[error("the disk server at {address} cannot serve now: {message}")]
    Unable {
        /// The server.
        address: ServerAddress,
        /// What it said.
        message: String,
    },
    /// Something else listens there.
    #[error("what listens at {address} is not a disk server: {what}")]
    NotAnArbiter {
        /// The address.
        address: ServerAddress,
        /// How that was seen.
        what: String,
    },
    /// The server speaks another version.
    #[error(
        "the disk server at {address} speaks another version of the protocol: {theirs}; this ftvm speaks {VERSIONS}: \
         upgrade the older one, version by version"
    )]
    Version {
        /// The server.
        address: ServerAddress,
        /// What it said.
        theirs: String,
    },
    /// The server refuses this request and will refuse it again.
    #[error("the disk server at {address} refuses: {message}")]
    Refused {
        /// The server.
        address: ServerAddress,
        /// What it said.
        message: String,
    },
    /// The owner of our key may not ask for that, as things are configured.
    #[error("the disk server at {address} does not allow that: {message}")]
    Denied {
        /// The server.
        address: ServerAddress,
        /// What it said.
        message: String,
    },
    /// It is not the server that answered before, whose word alone counts.
    #[error(
        "another disk server answers at {address} now than before, or one whose state was made \
         anew: bring the first one back there, with its state"
    )]
    OtherServer {
        /// The address.
        address: ServerAddress,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// A connection on which greetings were exchanged.
#[derive(Debug)]
pub(crate) struct Connection {
    address: ServerAddress,
    lines: Lines,
    server: Option<ServerNumber>,
    /// The version that is spoken.
    version: u16,
}

impl Connection {
    /// Connects within `timeout`, and waits for the server's greeting as for an answer: who asks
    /// something of a server knows first which one it is.
    pub(crate) fn open(
        address: &ServerAddress,
        endpoint: &Endpoint,
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
        let socket = stream::connect(address, Instant::now() + timeout).map_err(unreachable)?;
        let waiting = Waiting {
            deadline: Instant::now() + answer_timeout,
            cancel,
        };
        let opening = Opening::Preface(Service::DiskServer);
        let stream = endpoint
            .call(socket, opening, stream::SERVERS, waiting)
            .map_err(|error| unopened(address, error, answer_timeout))?;
        stream
            .set_write_timeout(Some(timeout))
            .map_err(unreachable)?;
        let mut connection = Connection {
            address: address.clone(),
            lines: Lines::new(stream),
            server: None,
            version: VERSIONS.oldest,
        };
        // If this fails, the server has closed already, and perhaps said why: that is found when its
        // answer is read.
        let _ = connection.lines.send(&Greeting::ours());
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
        #[cfg(feature = "next-protocol")]
        let request = &super::next::put(self.version, request).unwrap_or_default();
        let written = self.lines.send(request);
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

    /// The version that is spoken with it.
    pub(crate) fn version(&self) -> u16 {
        self.version
    }

    /// Who it is, as its key proves; `None` in plain mode.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.lines.stream().peer()
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
        self.version = greeting.common().ok_or_else(|| CallError::Version {
            address: self.address.clone(),
            theirs: format!("{:?} version {}", greeting.ftvm, greeting.versions()),
        })?;
        self.server = greeting.server;
        Ok(())
    }

    fn parse_response(&self, line: &[u8]) -> Result<Response, CallError> {
        let address = self.address.clone();
        match serde_json::from_slice(line) {
            Ok(Response::Error { code, message }) => Err(refusal(address, code, &message)),
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

/// What a server said in place of an answer.
fn refusal(address: ServerAddress, code: ErrorCode, message: &str) -> CallError {
    // It goes into logs, and to terminals.
    let message = message.replace(char::is_control, " ");
    match code {
        // A code of a later server says nothing about what was asked. To take it for a
        // refusal would halt both hosts of a pair: ask again.
        ErrorCode::Busy | ErrorCode::Storage | ErrorCode::TimedOut | ErrorCode::Unknown => {
            CallError::Unable { address, message }
        }
        ErrorCode::Version => CallError::Version {
            address,
            theirs: message,
        },
        ErrorCode::Denied => CallError::Denied { address, message },
        ErrorCode::Malformed | ErrorCode::TooLong | ErrorCode::Full | ErrorCode::Refused => {
            CallError::Refused { address, message }
        }
    }
}

fn unopened(address: &ServerAddress, error: ConnectionError, after: Duration) -> CallError {
    let address = address.clone();
    match error {
        ConnectionError::Cancelled => CallError::Cancelled,
        ConnectionError::TimedOut => CallError::Silent { address, after },
        ConnectionError::HungUp => CallError::Closed { address },
        ConnectionError::Io(source) => CallError::Lost { address, source },
        source => CallError::Unopened { address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever answers in place of a server, where no keys are asked for, can say anything.
    #[test]
    fn what_a_server_says_can_be_printed() {
        for code in [
            ErrorCode::Busy,
            ErrorCode::Version,
            ErrorCode::Denied,
            ErrorCode::Full,
        ] {
            let address = "disk.example:7420".parse().unwrap();
            let words = refusal(address, code, "no\x1b[2J\nall is well").to_string();
            assert!(words.contains("no [2J all is well"), "{words:?}");
        }
    }
}
