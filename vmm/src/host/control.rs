//! What a guest's process is asked, at its control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::lines::{MAX_LINE, read_line, write_line};
use crate::control::Status;

#[derive(Serialize)]
struct Ask {
    ask: &'static str,
}

/// Asks, and gives the answer, and what comes behind that.
///
/// # Errors
/// Nobody is there, or answers in time.
pub(super) fn ask(
    socket: &Path,
    what: &'static str,
    limit: Duration,
) -> io::Result<(String, UnixStream)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(limit))?;
    write_line(&stream, &Ask { ask: what })?;
    let answer = read_line(&stream, MAX_LINE, Instant::now() + limit)?;
    stream.set_write_timeout(None)?;
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
