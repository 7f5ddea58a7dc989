//! What a guest's process is asked, at its control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

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
/// Nobody is there, or answers in time.
pub(super) fn ask(
    socket: &Path,
    what: &'static str,
    limit: Duration,
) -> io::Result<(String, UnixStream)> {
    let stream = UnixStream::connect(socket)?;
    let answer = lines::ask(&stream, &Ask { ask: what }, MAX_ANSWER, limit)?;
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
