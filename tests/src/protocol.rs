//! What the testbed and the agent in a host say to each other.
//!
//! One TCP connection per request. Frames in both directions:
//!
//! ```text
//! kind u8 | length u32, big-endian | payload
//!
//! testbed                                   agent
//!   Request(Run {argv, env}) ------------->
//!   Input* EndOfInput  ------------------->   standard input
//!   Signal*  ----------------------------->   to the command's process group
//!            <-----------------  Stdout* Stderr*
//!            <-----------------  Exit, or Failed
//!
//!   Request(Put {path, mode}) ------------>
//!   Input* EndOfInput  ------------------->
//!            <-----------------  Exit, or Failed
//!
//!   Request(Get {path}) ------------------>
//!            <-----------------  Stdout*, then Exit, or Failed
//!
//!   Request(Glance {paths}) -------------->
//!            <-----------------  Stdout* (a JSON array of [path, contents]), then Exit
//! ```
//!
//! The agent kills a command's process group when the connection closes. The
//! two sides are always built together, so there is no version to negotiate.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// TCP port that the agent listens on.
pub const AGENT_PORT: u16 = 7077;

/// Largest payload of a frame.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Size of the pieces that output and files are sent in.
pub const CHUNK: usize = 64 << 10;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run a command.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Variables added to the agent's environment.
        env: BTreeMap<String, String>,
        /// The size of the terminal to run in; without it, in pipes.
        terminal: Option<TerminalSize>,
    },
    /// Write a file; parents are made.
    Put {
        /// Path in the host.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Read a file.
    Get {
        /// Path in the host.
        path: String,
    },
    /// Read small files, such as those in `/proc`, in so little time that they belong together.
    Glance {
        /// Paths in the host. A directory `*` stands for every one that is there.
        paths: Vec<String>,
    },
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it exited with status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of a connection.
    Request(Request),
    /// Bytes for standard input or for a file.
    Input(Vec<u8>),
    /// No more input follows.
    EndOfInput,
    /// A signal for the command's process group.
    Signal(i32),
    /// Bytes of standard output or of a file.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The request is done.
    Exit(Exit),
    /// The request could not be carried out.
    Failed(String),
}

const REQUEST: u8 = 1;
const INPUT: u8 = 2;
const END_OF_INPUT: u8 = 3;
const SIGNAL: u8 = 4;
const STDOUT: u8 = 17;
const STDERR: u8 = 18;
const EXIT: u8 = 19;
const FAILED: u8 = 20;

impl Frame {
    /// Writes the frame.
    ///
    /// # Errors
    ///
    /// When the writer fails or the payload is over [`MAX_PAYLOAD`].
    pub fn write_to(&self, mut output: impl Write) -> io::Result<()> {
        let json;
        let number;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Request(request) => {
                json = serde_json::to_vec(request)?;
                (REQUEST, &json)
            }
            Self::Input(bytes) => (INPUT, bytes),
            Self::EndOfInput => (END_OF_INPUT, &[]),
            Self::Signal(signal) => {
                number = signal.to_be_bytes();
                (SIGNAL, &number)
            }
            Self::Stdout(bytes) => (STDOUT, bytes),
            Self::Stderr(bytes) => (STDERR, bytes),
            Self::Exit(exit) => {
                json = serde_json::to_vec(exit)?;
                (EXIT, &json)
            }
            Self::Failed(reason) => (FAILED, reason.as_bytes()),
        };
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_PAYLOAD)
            .ok_or_else(|| invalid(format!("a payload of {} bytes", payload.len())))?;
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
        output.write_all(&bytes)
    }

    /// Reads one frame; `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// When the connection fails, ends in the middle of a frame, or does not
    /// speak this protocol.
    pub fn read_from(mut input: impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if input.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid(format!("a frame of {length} bytes")));
        }
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        Ok(Some(match kind[0] {
            REQUEST => Self::Request(serde_json::from_slice(&payload)?),
            INPUT => Self::Input(payload),
            END_OF_INPUT => Self::EndOfInput,
            SIGNAL => Self::Signal(i32::from_be_bytes(
                payload
                    .try_into()
                    .map_err(|_| invalid("a signal is 4 bytes".to_owned()))?,
            )),
            STDOUT => Self::Stdout(payload),
            STDERR => Self::Stderr(payload),
            EXIT => Self::Exit(serde_json::from_slice(&payload)?),
            FAILED => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            other => return Err(invalid(format!("a frame of kind {other}"))),
        }))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("agent protocol: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back() {
        let frames = [
            Frame::Request(Request::Run {
                argv: vec!["ftvm".to_owned(), "doctor".to_owned()],
                env: BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned())]),
                terminal: Some(TerminalSize {
                    rows: 24,
                    columns: 80,
                }),
            }),
            Frame::Request(Request::Put {
                path: "/tmp/x".to_owned(),
                mode: 0o755,
            }),
            Frame::Request(Request::Get {
                path: "/tmp/x".to_owned(),
            }),
            Frame::Request(Request::Glance {
                paths: vec!["/proc/uptime".to_owned()],
            }),
            Frame::Input(vec![0; MAX_PAYLOAD]),
            Frame::EndOfInput,
            Frame::Signal(15),
            Frame::Stdout(b"out".to_vec()),
            Frame::Stderr(Vec::new()),
            Frame::Exit(Exit::Code(3)),
            Frame::Exit(Exit::Signal(9)),
            Frame::Failed("no such file".to_owned()),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write_to(&mut bytes).expect("a frame");
        }
        let mut input = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read_from(&mut input).expect("it back"), Some(frame));
        }
        assert_eq!(Frame::read_from(&mut input).expect("the end"), None);
    }

    #[test]
    fn broken_frames_are_errors() {
        let too_long = [STDOUT, 0xff, 0, 0, 0];
        let cut = [STDOUT, 0, 0, 0, 9, 1];
        let unknown = [99, 0, 0, 0, 0];
        let bad_json = [REQUEST, 0, 0, 0, 1, b'{'];
        let bad_signal = [SIGNAL, 0, 0, 0, 1, 9];
        for bytes in [&too_long[..], &cut, &unknown, &bad_json, &bad_signal] {
            assert!(Frame::read_from(bytes).is_err(), "{bytes:?}");
        }
        assert!(
            Frame::Stdout(vec![0; MAX_PAYLOAD + 1])
                .write_to(Vec::new())
                .is_err()
        );
    }
}
