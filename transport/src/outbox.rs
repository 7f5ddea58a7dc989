//! Bytes on their way into a socket.

use std::io;

/// Bytes that are to be sent, in order. Its room is kept for those that follow.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    end: usize,
}

impl Outbox {
    /// Room for `len` bytes behind the last; see [`Outbox::filled`].
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        if self.sent == self.end {
            (self.sent, self.end) = (0, 0);
        }
        let needed = self.end + len;
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        &mut self.bytes[self.end..needed]
    }

    /// So much of the room has something now.
    pub(crate) fn filled(&mut self, len: usize) {
        self.end += len;
    }

    /// How many bytes it has room for.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// Those of `write`, but for interruptions. What it did not take stays.
    pub(crate) fn send(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while self.sent < self.end {
            match write(&self.bytes[self.sent..self.end]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
