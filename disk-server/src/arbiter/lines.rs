//! Bounded lines from a connection, for either side.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use transport::Stream;

use super::protocol::{MAX_LINE, encode};

/// How soon a wait notices that it was cancelled.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(50);

/// How long to wait for a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// Until its first byte: how long the other side may be idle.
    pub(crate) idle: Duration,
    /// From its first byte to its last, so that a byte now and then does not hold a connection.
    pub(crate) line: Duration,
    /// Ends the wait early.
    pub(crate) cancel: Option<&'a AtomicBool>,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("the connection was closed")]
    Closed,
    #[error("the connection was closed in the middle of a line")]
    ClosedInLine,
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("nothing came for {0:?}")]
    Idle(Duration),
    #[error("a line was not complete after {0:?}")]
    Slow(Duration),
    #[error("cancelled")]
    Cancelled,
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// Splits what a connection delivers into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no newline.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Lines {
        Lines {
            stream,
            buffer: Vec::new(),
            searched: 0,
        }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// How many bytes it has room for.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Sends a message as a line.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let mut stream = &self.stream;
        stream.write_all(&encode(message))?;
        stream.flush()
    }

    /// Bytes that came after the last line.
    pub(crate) fn pending(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next line, without its newline.
    pub(crate) fn next(&mut self, patience: Patience<'_>) -> Result<Vec<u8>, LineError> {
        let started = Instant::now();
        let mut first_byte = (!self.buffer.is_empty()).then_some(started);
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(line);
            }
            let (since, limit) = match first_byte {
                None => (started, patience.idle),
                Some(first) => (first, patience.line),
            };
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(match first_byte {
                    None => LineError::Idle(limit),
                    Some(_) => LineError::Slow(limit),
                });
            }
            if patience.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(LineError::Cancelled);
            }
            let slice = match patience.cancel {
                Some(_) => left.min(CANCEL_POLL),
                None => left,
            };
            if self.fill(slice)? && first_byte.is_none() {
                first_byte = Some(Instant::now());
            }
        }
    }

    fn take_line(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let newline = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|at| at + self.searched);
        match newline {
            Some(at) if at < MAX_LINE => {
                let rest = self.buffer.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.buffer.len() < MAX_LINE => {
                self.searched = self.buffer.len();
                Ok(None)
            }
            _ => Err(LineError::TooLong),
        }
    }

    /// Reads what there is; false when nothing came in time.
    fn fill(&mut self, limit: Duration) -> Result<bool, LineError> {
        let mut chunk = [0_u8; MAX_LINE];
        match self.stream.read_until(&mut chunk, Instant::now() + limit) {
            Ok(0) if self.buffer.is_empty() => Err(LineError::Closed),
            Ok(0) => Err(LineError::ClosedInLine),
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(LineError::Io(error)),
        }
    }
}
