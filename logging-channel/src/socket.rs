//! The few socket operations that the standard library does not have.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Waits until one of `fds` can be read (or has ended or failed), at most `timeout` (`None`:
/// forever). Returns for each whether it is so; all are `false` after a timeout or a signal.
pub(crate) fn wait_readable(fds: &[RawFd], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Rounded up: a wait that ends early would spin until its time has come.
    let timeout = timeout.map_or(-1, |t| {
        i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    });
    // SAFETY: `polled` is a valid array of as many elements as are passed, for the whole call.
    let n = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(vec![false; fds.len()]);
        }
        return Err(error);
    }
    Ok(polled.iter().map(|p| p.revents != 0).collect())
}

/// Sends what the socket takes without waiting.
pub(crate) fn send_now(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a valid slice.
    let n = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(n as usize)
}

/// Wakes every thread that waits to read from `socket`, for good. Unlike the standard library's,
/// works for listeners and datagram sockets.
pub(crate) fn stop_reading(socket: &impl AsRawFd) {
    // SAFETY: shutdown takes any descriptor; an error means that there is nobody to wake.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) };
}

/// A random number that no other session has.
pub(crate) fn nonce() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the pointer and the length are those of a valid array.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(n, 8, "getrandom gives up to 256 bytes at once");
    u64::from_le_bytes(bytes)
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
