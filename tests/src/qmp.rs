//! QEMU's monitor, by its machine protocol (QMP: one JSON object a line).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use crate::wait::LIMIT;

/// How often it is looked whether a migration is complete.
const POLL: Duration = Duration::from_millis(5);

/// The monitor of a QEMU.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Gives the QEMU that `command` will start a monitor, and takes its other end.
    pub(crate) fn attach(command: &mut Command) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(LIMIT))?;
        let chardev = format!("socket,id=monitor,fd={}", theirs.as_raw_fd());
        command
            .args(["-chardev", &chardev])
            .args(["-mon", "chardev=monitor,mode=control"]);
        // SAFETY: between fork and exec the closure makes a single system call, and allocates
        // nothing.
        unsafe {
            command.pre_exec(move || {
                fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        Ok(Self {
            stream: BufReader::new(ours),
        })
    }

    /// Carries out a command, and gives what it returns.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            // What is neither an error nor a result is the greeting, or an event.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Migrates the state of all devices to (`migrate`) or from (`migrate-incoming`) `uri`; not
    /// memory that is shared with a file.
    pub(crate) fn migrate(&mut self, command: &str, uri: &str) -> io::Result<()> {
        self.execute("qmp_capabilities", &json!({}))?;
        let shared = json!({"capability": "x-ignore-shared", "state": true});
        self.execute(
            "migrate-set-capabilities",
            &json!({"capabilities": [shared]}),
        )?;
        self.execute(command, &json!({"uri": uri}))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = self.execute("query-migrate", &json!({}))?;
            match seen["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(io::Error::other(format!("{command}: {seen}")));
                }
                _ if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
                _ => std::thread::sleep(POLL),
            }
        }
    }
}
