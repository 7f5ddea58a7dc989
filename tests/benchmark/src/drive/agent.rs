//! Commands in the guest, by its agent ([`guest_images::agent`]).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use guest_images::agent::{PORT, STATUS};
use testbed::{Error, GUEST, Result};

use super::driver::Driver;

/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs a shell command in the guest to its end, and gives what it prints on standard output and
/// standard error. An error when the agent does not answer in time, or the command fails.
pub(super) fn run(driver: &Driver<'_>, command: &str) -> Result<String> {
    let text = talk(driver, command).map_err(|error| silent(command, &error))?;
    match answer(&text) {
        Some((output, "0")) => Ok(output.to_owned()),
        // Its status, if it has one, is at the end.
        _ => Err(Error::Command {
            command: format!("{command} (in the guest)"),
            stderr: text,
        }),
    }
}

/// What a command printed, and its exit status.
fn answer(text: &str) -> Option<(&str, &str)> {
    text.trim_end().rsplit_once(STATUS)
}

/// Starts a shell command in the guest, and gives what its output comes from.
pub(super) fn start(driver: &Driver<'_>, command: &str) -> Result<TcpStream> {
    ask(driver, command).map_err(|error| silent(command, &error))
}

fn ask(driver: &Driver<'_>, command: &str) -> std::io::Result<TcpStream> {
    let mut stream = driver.client.connect(GUEST, PORT, CONNECT)?;
    stream.set_read_timeout(Some(driver.limit()))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    Ok(stream)
}

/// The error of a command that was not answered.
pub(super) fn silent(command: &str, error: &std::io::Error) -> Error {
    Error::Client {
        what: format!("answer of the guest's agent to `{command}`"),
        trouble: error.to_string(),
    }
}

fn talk(driver: &Driver<'_>, command: &str) -> std::io::Result<String> {
    let mut stream = ask(driver, command)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_at_the_end() {
        assert_eq!(answer("a\nb\nagent-status 0\n"), Some(("a\nb\n", "0")));
        assert_eq!(answer("agent-status 127\n"), Some(("", "127")));
        // Of a command whose guest was lost.
        assert_eq!(answer("a\nb\n"), None);
    }
}
