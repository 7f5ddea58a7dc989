//! One connection to a PostgreSQL server: a `psql` that reads statements from a pipe. It never
//! connects a second time by itself; when its connection breaks, it ends.

use std::io::{self, BufRead as _, BufReader, PipeReader, Write as _};
use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::error::{Error, Result};
use crate::network::Position;
use crate::process::LocalProcess;

/// How often a wait for an answer looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(100);
/// How long a `psql` with a broken connection may take to say so and end.
const END: Duration = Duration::from_secs(5);
/// What ends an answer of several lines.
const MARK: &str = "-- that is all --";
/// psql's exit status when its connection broke, or could not be made.
const CONNECTION: i32 = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PsqlError {
    /// There is no connection, or it broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server refused a statement, or answered nonsense.
    #[error("psql says: {0}")]
    Refused(String),
    /// The caller does not want to wait any longer.
    #[error("no answer came in time")]
    GivenUp,
}

/// A `psql` with its connection. It is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Psql {
    process: LocalProcess,
    input: ChildStdin,
    /// What it prints, errors too, in this order.
    lines: Receiver<String>,
}

impl Psql {
    /// Starts one at `position`. It begins to connect; that it could is known from its first
    /// answer.
    pub(super) fn start(position: &Position, conninfo: &str) -> Result<Self> {
        let mut command = position.command("psql")?;
        let pipes = || {
            let (reader, output) = io::pipe()?;
            Ok((reader, output.try_clone()?, output))
        };
        let (reader, output, errors) = pipes().map_err(|source| Error::Start {
            command: "psql".to_owned(),
            source,
        })?;
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--no-password", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", conninfo])
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors);
        // Until its owner, the command, is gone, we have the other end of its pipe.
        let mut process = LocalProcess::start(command)?;
        let input = process.child().stdin.take().expect("it was asked for");
        let (sender, lines) = unbounded();
        thread::spawn(move || forward(reader, &sender));
        Ok(Self {
            process,
            input,
            lines,
        })
    }

    /// The one line that answers a statement. Ten times a second, `give_up` is asked.
    pub(super) fn line(
        &mut self,
        statement: &str,
        give_up: impl Fn() -> bool,
    ) -> std::result::Result<String, PsqlError> {
        self.send(statement)?;
        self.receive(&give_up)
    }

    /// The number that answers a statement.
    pub(super) fn number(
        &mut self,
        statement: &str,
        give_up: impl Fn() -> bool,
    ) -> std::result::Result<u64, PsqlError> {
        let line = self.line(statement, give_up)?;
        line.parse().map_err(|_| self.objection(line))
    }

    /// All lines that answer a statement.
    pub(super) fn lines(
        &mut self,
        statement: &str,
        give_up: impl Fn() -> bool,
    ) -> std::result::Result<Vec<String>, PsqlError> {
        self.send(&format!("{statement}\n\\echo {MARK}"))?;
        let mut lines = Vec::new();
        loop {
            match self.receive(&give_up)? {
                line if line == MARK => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    fn send(&mut self, statement: &str) -> std::result::Result<(), PsqlError> {
        let sent = self.input.write_all(format!("{statement}\n").as_bytes());
        sent.map_err(|_| self.objection(String::new()))
    }

    fn receive(&mut self, give_up: &impl Fn() -> bool) -> std::result::Result<String, PsqlError> {
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if give_up() => return Err(PsqlError::GivenUp),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.objection(String::new())),
            }
        }
    }

    /// What it says in place of an answer; `first` is the line that is none.
    fn objection(&mut self, first: String) -> PsqlError {
        let mut said = vec![first];
        let deadline = Instant::now() + END;
        while let Ok(line) = self.lines.recv_deadline(deadline) {
            said.push(line);
        }
        said.retain(|line| !line.trim().is_empty());
        let text = said.join("; ");
        // Without output it is about to end, if it has not yet.
        let status = self.process.child().wait();
        match status.ok().and_then(|status| status.code()) {
            Some(CONNECTION) => PsqlError::Broken(text),
            _ => PsqlError::Refused(text),
        }
    }
}

/// Passes lines on until the pipe or the receiver is closed.
fn forward(reader: PipeReader, lines: &Sender<String>) {
    for line in BufReader::new(reader).lines() {
        let Ok(line) = line else { return };
        if lines.send(line).is_err() {
            return;
        }
    }
}
