//! The few socket operations that the standard library does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

/// Waits until one of `fds` can be read (or has ended or failed), at most `timeout` (`None`:
/// forever). Returns for each whether it is so; all are `false` after a timeout or a signal.
pub(crate) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd> = fds
        .iter()
        .map(|&fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    // Rounded up: a wait that ends early would spin until its time has come.
    let timeout = timeout.map_or(PollTimeout::NONE, |t| {
        PollTimeout::try_from(t.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled.iter().map(|p| p.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Sends what the socket takes without waiting.
pub(crate) fn send_now(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(send(socket.as_raw_fd(), bytes, flags)?)
}

/// What is left of a message that a socket did not take at once.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    sent: usize,
}

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Adds a message behind what is left.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        if self.is_empty() {
            self.bytes = message;
            self.sent = 0;
        } else {
            self.bytes.extend_from_slice(&message);
        }
    }

    /// All of it was sent by other means.
    pub(crate) fn clear(&mut self) {
        self.sent = self.bytes.len();
    }

    /// Sends what the socket takes without waiting; says whether that was all.
    pub(crate) fn send_now(&mut self, socket: &impl AsRawFd) -> io::Result<bool> {
        while !self.is_empty() {
            match send_now(socket, self.rest()) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
