//! Programs of this machine that are clients of the guest.

use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use testbed::LocalProcess;
use testbed::Position;
use testbed::{Error, Result};

/// How often it is looked whether the program has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Runs a program at `position` to its end, and gives its standard output.
///
/// # Errors
///
/// When it cannot be started, fails, or does not end within `limit`: then it is killed.
pub(super) fn run(
    position: &Position,
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let mut command = position.command(program)?;
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = LocalProcess::start(command)?;
    let child = process.child();
    let stdout = collect(child.stdout.take().expect("it is piped"));
    let stderr = collect(child.stderr.take().expect("it is piped"));
    let deadline = Instant::now() + limit;
    let exit = loop {
        if let Some(exit) = process.ended() {
            break Some(exit);
        }
        if Instant::now() > deadline {
            process.kill();
            break None;
        }
        thread::sleep(LOOK);
    };
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        let bytes = reader.join().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match exit {
        Some(exit) if exit.success() => Ok(stdout),
        Some(exit) => Err(Error::Command {
            command: line(),
            stderr: format!("{exit}: {}{}", last_lines(&stdout), last_lines(&stderr)),
        }),
        None => Err(Error::Timeout {
            what: format!("the end of `{}`", line()),
            limit,
            seen: format!("{}{}", last_lines(&stdout), last_lines(&stderr)),
        }),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is worth having.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// The end of an output: programs that show their progress print much.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
