//! Sending without waiting.

use std::io;

use transport::Stream;

/// What is left of messages that a connection did not take at once.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    sent: usize,
    /// The connection has taken bytes, and not sent all of them yet.
    holds: bool,
}

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && !self.holds
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Adds a message behind what is left.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        if self.rest().is_empty() {
            self.bytes = message;
            self.sent = 0;
        } else {
            self.bytes.extend_from_slice(&message);
        }
    }

    /// All of it was sent by other means.
    pub(crate) fn clear(&mut self) {
        self.sent = self.bytes.len();
        self.holds = false;
    }

    /// Sends what the connection takes without waiting; says whether that was all.
    pub(crate) fn send_now(&mut self, stream: &Stream) -> io::Result<bool> {
        while !self.rest().is_empty() {
            match stream.send_now(self.rest()) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.holds = !stream.flush_now()?;
        Ok(self.is_empty())
    }
}
