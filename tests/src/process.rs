//! Processes: in hosts, and on this machine beside them.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::connection::{Connection, Source};
use crate::error::{Error, Result};
use crate::protocol::{Exit, Frame};

/// A line that a process printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it was printed to.
    pub source: Source,
    /// The line, without its end.
    pub text: String,
    /// When it arrived.
    pub at: Instant,
}

/// A command that runs in a host. It is killed when this value is dropped.
#[derive(Debug)]
pub struct HostProcess {
    command: String,
    guard: Guard,
    lines: Receiver<Line>,
    exit: Receiver<Result<Exit>>,
    /// How it ended, once that was looked at.
    ended: Option<Result<Exit>>,
    /// The lines that were taken in search of another, for error messages.
    seen: Vec<String>,
}

/// Closes the connection, upon which the agent kills the command.
struct Guard {
    connection: Connection,
    reader: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connection.close();
        if let Some(reader) = self.reader.take() {
            // The reader does not panic; if it did, the message is printed.
            let _ = reader.join();
        }
    }
}

impl HostProcess {
    pub(crate) fn follow(command: String, connection: Connection, log: Option<File>) -> Self {
        let (line_sender, lines) = unbounded();
        let (exit_sender, exit) = bounded(1);
        let reader = thread::spawn({
            let connection = connection.clone();
            move || {
                let mut splitter = Splitter {
                    lines: line_sender,
                    log,
                    partial: Default::default(),
                };
                let result = connection.receive(|source, bytes| splitter.take(source, bytes));
                splitter.finish();
                // Nobody may be waiting any more.
                let _ = exit_sender.send(result);
            }
        });
        let guard = Guard {
            connection,
            reader: Some(reader),
        };
        Self {
            command,
            guard,
            lines,
            exit,
            ended: None,
            seen: Vec::new(),
        }
    }

    /// The lines it prints. Disconnected when it has ended and all were taken.
    #[must_use]
    pub fn lines(&self) -> &Receiver<Line> {
        &self.lines
    }

    /// Waits until it prints a line that contains `text`, and gives that line.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        while let Ok(line) = self.lines.recv_deadline(deadline) {
            self.seen.push(line.text.clone());
            if line.text.contains(text) {
                return Ok(line);
            }
        }
        Err(Error::Timeout {
            what: format!(
                "`{text}` from `{}` on host {}",
                self.command,
                self.guard.connection.host()
            ),
            limit,
            seen: self.seen.join("\n"),
        })
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.send(&Frame::Signal(signal as i32))
    }

    /// Gives it standard input.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        bytes
            .chunks(crate::protocol::CHUNK)
            .try_for_each(|chunk| self.send(&Frame::Input(chunk.to_vec())))
    }

    /// Ends its standard input.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn end_input(&self) -> Result<()> {
        self.send(&Frame::EndOfInput)
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        self.guard.connection.send(frame)
    }

    /// How it ended, in words, if it does within `limit`.
    pub fn last_word(&mut self, limit: Duration) -> Option<String> {
        Some(match self.exit(limit)? {
            Ok(exit) => exit.to_string(),
            Err(error) => error.to_string(),
        })
    }

    fn exit(&mut self, limit: Duration) -> Option<&Result<Exit>> {
        if self.ended.is_none() {
            self.ended = self.exit.recv_timeout(limit).ok();
        }
        self.ended.as_ref()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`, or its host is gone.
    pub fn wait(mut self, limit: Duration) -> Result<Exit> {
        self.exit(limit);
        match self.ended {
            Some(result) => result,
            None => {
                let rest = self.lines.try_iter().map(|line| line.text);
                Err(Error::Timeout {
                    what: format!(
                        "the end of `{}` on host {}",
                        self.command,
                        self.guard.connection.host()
                    ),
                    limit,
                    seen: self
                        .seen
                        .iter()
                        .cloned()
                        .chain(rest)
                        .collect::<Vec<_>>()
                        .join("\n"),
                })
            }
        }
    }
}

/// Cuts output into lines.
struct Splitter {
    lines: Sender<Line>,
    log: Option<File>,
    /// Unfinished lines of standard output and standard error.
    partial: [Vec<u8>; 2],
}

impl Splitter {
    fn take(&mut self, source: Source, bytes: &[u8]) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write_all(bytes)
        {
            log::warn!("a log is not complete: {error}");
            self.log = None;
        }
        let partial = &mut self.partial[source as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(piece);
            if partial.ends_with(b"\n") {
                partial.pop();
                Self::emit(&self.lines, source, partial);
            }
        }
    }

    fn finish(&mut self) {
        for source in [Source::Stdout, Source::Stderr] {
            let partial = &mut self.partial[source as usize];
            if !partial.is_empty() {
                Self::emit(&self.lines, source, partial);
            }
        }
    }

    fn emit(lines: &Sender<Line>, source: Source, partial: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(partial)
            .trim_end_matches('\r')
            .to_owned();
        partial.clear();
        // Nobody may be reading any more.
        let _ = lines.send(Line {
            source,
            text,
            at: Instant::now(),
        });
    }
}

/// Starts a process that is killed when this process ends, however it ends.
///
/// The kernel ties that to the *thread* which starts it, so one thread that
/// lives as long as we do starts them all.
pub(crate) fn spawn_bound(mut command: Command) -> Result<Child> {
    type Job = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Sender<Job>> = OnceLock::new();

    use std::os::unix::process::CommandExt as _;
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec the closure makes two system calls and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
            Ok(())
        });
    }
    let line = format!("{command:?}");
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = unbounded::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                // The one who asked waits for it.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, result) = bounded(1);
    let gone = "the starting thread never ends";
    starter.send((command, reply)).expect(gone);
    result.recv().expect(gone).map_err(|source| Error::Start {
        command: line,
        source,
    })
}

/// A process on this machine, outside the hosts. It is killed when dropped.
#[derive(Debug)]
pub struct LocalProcess {
    child: Child,
}

impl LocalProcess {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        Ok(Self {
            child: spawn_bound(command)?,
        })
    }

    /// The process, to wait for it or to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // Nobody else waits for it: this cannot fail.
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal, if it has not ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let id = i32::try_from(self.child.id()).expect("process numbers are below 2^22");
            // It may have ended just now: as long as we have not waited for it, its number is its.
            let _ = nix::sys::signal::kill(Pid::from_raw(id), signal);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for LocalProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
