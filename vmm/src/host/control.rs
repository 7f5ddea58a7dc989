//! What a guest's process is asked, at its control socket.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde::Serialize;

use crate::control::Status;
use crate::lines;

/// The longest answer, in bytes: a role fits, as into a ping.
const MAX_ANSWER: usize = 16 << 10;

#[derive(Serialize)]
struct Ask {
    ask: &'static str,
}

/// Asks, and gives the answer, and what comes behind that.
///
/// # Errors
/// Nobody is there, or answers within `limit`.
pub(super) fn ask(
    socket: &Path,
    what: &'static str,
    limit: Duration,
) -> io::Result<(String, UnixStream)> {
    let deadline = Instant::now() + limit;
    let stream = connect(socket, limit)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let answer = lines::ask(&stream, &Ask { ask: what }, MAX_ANSWER, left)?;
    Ok((answer, stream))
}

/// Asks how a guest is.
///
/// # Errors
/// As [`ask`], or the answer is none.
pub(super) fn status(socket: &Path, limit: Duration) -> io::Result<Status> {
    let (answer, _) = ask(socket, "status", limit)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Connects to a process that may be frozen: its kernel takes some connections for it, and the next one waits.
///
/// # Errors
/// Nobody is there, or nothing was taken within `limit`.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let stream = UnixStream::from(socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?);
    // It counts for connecting, too (socket(7), `SO_SNDTIMEO`).
    stream.set_write_timeout(Some(limit))?;
    match socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(stream),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::Backlog;

    use super::*;

    #[test]
    fn a_process_that_is_frozen_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("control.sock");
        let listener = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let listener = listener.expect("a socket");
        let address = UnixAddr::new(&path).expect("it is short");
        socket::bind(listener.as_raw_fd(), &address).expect("it is free");
        socket::listen(&listener, Backlog::new(1).expect("a length")).expect("it is bound");
        let limit = Duration::from_millis(20);
        let mut taken = Vec::new();
        let error = loop {
            match connect(&path, limit) {
                Ok(stream) => taken.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!taken.is_empty(), "the first one finds room");
        drop(taken);
        let error = ask(&path, "status", limit).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
