//! Programs of this machine that are clients of the guest.

use std::io::Read;
use std::process::Stdio;
use std::thread;

use testbed::{Error, LocalProcess, Result};

use super::driver::Driver;

/// Runs a client of the guest to its end, and gives its standard output. An error when it cannot be
/// started, fails, or does not end in time: then it is killed.
pub(super) fn run(driver: &Driver<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    let seconds = driver.limit().as_secs().to_string();
    let mut command = driver.client.command("timeout")?;
    command
        .args(["--signal=KILL", &seconds, program])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = LocalProcess::start(command)?;
    let child = process.child();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let stderr = scope.spawn(|| text(stderr));
        (text(stdout), stderr.join().unwrap_or_default())
    });
    match process.child().wait() {
        Ok(exit) if exit.success() => Ok(stdout),
        exit => Err(Error::Command {
            command: format!("timeout {seconds} {program} {}", arguments.join(" ")),
            stderr: format!("{exit:?}: {}{}", last_lines(&stdout), last_lines(&stderr)),
        }),
    }
}

/// All that comes. What came before an error is worth having.
fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of an output: programs that show their progress print much.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
