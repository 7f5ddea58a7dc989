//! A guest's process, which outlives the daemon that started it.
//!
//! It holds a lock from before its first instruction to its end, however that comes: the daemon takes the
//! lock, and the process inherits it. So any later daemon sees whether it lives, and waits for its end, without
//! trusting a number that may belong to another process by then.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use disk_server::views::{Cause, Ended};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

/// Where last words are looked for, from the end of a file, in bytes.
const LAST_WORDS: u64 = 4 << 10;

/// Of `linux/capability.h`.
const CAP_NET_ADMIN: libc::c_ulong = 12;
/// For arguments that a request has not (prctl(2)).
const NONE: libc::c_ulong = 0;

/// How soon a lock is asked for again where that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// What a process was started with, for a daemon that is started later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As which the guest's process began, for people.
    pub(super) role: String,
    /// The guest's TAP interface.
    pub(super) tap: String,
    /// Where it takes backups.
    pub(super) listen: SocketAddr,
    /// How much memory the guest takes, in MiB.
    pub(super) memory_mib: u64,
    /// Its number, once it was started.
    pub(super) pid: Option<u32>,
    /// How it ended, once a daemon saw that.
    pub(super) ended: Option<Ended>,
}

impl Record {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Who reads it meanwhile reads what was there before.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }
}

/// A lock that this process holds.
pub(super) struct Lock(File);

impl Lock {
    /// Takes a lock; `None` if another process holds it.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Starts a process that holds the lock from now on, in a session of its own.
pub(super) fn start(mut command: Command, lock: Lock) -> io::Result<Child> {
    // Every other process that is started meanwhile closes its copy when it begins.
    let inherited = lock.0.as_raw_fd();
    // SAFETY: between fork and exec the closure makes three system calls and allocates nothing; the file is
    // open until this returns.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            // The guest's interface is there, and to attach to it takes no capability. Where this daemon is root's,
            // the process gives it up itself.
            let lower = libc::PR_CAP_AMBIENT_LOWER as libc::c_ulong;
            let _ = libc::prctl(libc::PR_CAP_AMBIENT, lower, CAP_NET_ADMIN, NONE, NONE);
            let file = std::os::fd::BorrowedFd::borrow_raw(inherited);
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    command.spawn()
}

/// A process that holds a lock.
pub(super) struct Watch {
    lock: File,
    /// It, where this daemon started it.
    child: Option<Child>,
}

/// Where a process says what it does.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// Its standard error.
    pub(super) log: PathBuf,
    /// Its events.
    pub(super) events: PathBuf,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exit {
    /// Its exit status, or, as shells have it, 128 and the number of the signal that ended it; `None` if it is not known.
    pub(super) status: Option<i32>,
    /// What kept it from what it was to do.
    pub(super) cause: Cause,
    /// Its last words, or which signal.
    pub(super) reason: String,
}

impl Watch {
    /// On the process that holds the lock there, or is about to.
    pub(super) fn on(lock: &Path) -> io::Result<Self> {
        Ok(Self {
            lock: open(lock)?,
            child: None,
        })
    }

    pub(super) fn of_child(self, child: Child) -> Self {
        Self {
            child: Some(child),
            ..self
        }
    }

    /// Waits for its end.
    pub(super) fn wait(self, said: &Said) -> Exit {
        while let Err(error) = self.lock.lock() {
            // Who cannot tell must not take it for ended.
            log::debug!("a guest's process is waited for: {error}");
            thread::sleep(AGAIN);
        }
        match self.child.map(|mut child| child.wait()) {
            Some(Ok(status)) => Exit::seen(status, said),
            _ => Exit::unseen(said),
        }
    }
}

impl Exit {
    fn seen(status: ExitStatus, said: &Said) -> Self {
        let last_words = said.last_words();
        let reason = match status.signal() {
            None => last_words,
            Some(signal) => {
                let name = Signal::try_from(signal).map(|signal| signal.to_string());
                let name = name.unwrap_or_else(|_| format!("signal {signal}"));
                format!("ended by {name}; {last_words}")
            }
        };
        Self {
            status: status.code().or(status.signal().map(|signal| 128 + signal)),
            cause: said.cause(),
            reason,
        }
    }

    /// Of a process that ended while no daemon was there, or of which this one is not the parent: by what
    /// itself said.
    pub(super) fn unseen(said: &Said) -> Self {
        let last_words = said.last_words();
        Self {
            status: said.status(),
            cause: said.cause(),
            reason: format!("the daemon was started anew meanwhile; {last_words}"),
        }
    }
}

impl Said {
    /// The last line of its log, without what is before its text.
    fn last_words(&self) -> String {
        let end = end_of(&self.log);
        let Some(line) = end.lines().rev().find(|line| !line.trim().is_empty()) else {
            return "it said nothing".to_owned();
        };
        let text = match line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "))
        {
            Some((_, text)) => text,
            None => line.strip_prefix("ftvm: ").unwrap_or(line),
        };
        format!("it said: {text}")
    }

    /// Its exit status, where its last event tells that its guest ended in order, or crashed.
    fn status(&self) -> Option<i32> {
        match end_told(&self.events)?.reason.as_str() {
            "TripleFault" => Some(5),
            "PowerOff" | "Reset" | "Stopped" => Some(0),
            _ => None,
        }
    }

    /// As its last event tells.
    fn cause(&self) -> Cause {
        let told = end_told(&self.events).and_then(|end| end.cause);
        told.unwrap_or(Cause::Other)
    }
}

/// Whether the last of these events is the end.
pub(super) fn tells_end(events: &Path) -> bool {
    end_told(events).is_some()
}

/// What is told of an end.
#[derive(Deserialize)]
struct End {
    reason: String,
    cause: Option<Cause>,
}

/// The end, where the last of these events tells that.
fn end_told(events: &Path) -> Option<End> {
    #[derive(Deserialize)]
    #[serde(tag = "event", rename_all = "kebab-case")]
    enum Last {
        Ended(End),
    }
    let Last::Ended(end) = serde_json::from_str(end_of(events).lines().last()?).ok()?;
    Some(end)
}

fn open(lock: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(lock)
}

/// The end of a file; empty if there is none.
fn end_of(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LAST_WORDS)))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use crate::events::Event;

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    fn said(folder: &tempfile::TempDir) -> Said {
        Said {
            log: folder.path().join("log"),
            events: folder.path().join("events"),
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn a_process_holds_its_lock_for_as_long_as_it_lives() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, said) = (folder.path().join("lock"), said(&folder));
        fs::write(
            &said.log,
            "[2026-01-01T00:00:00Z INFO  ftvm] first\n[then WARN x] no room\n\n",
        )
        .expect("a file");
        let lock = Lock::take(&path).expect("it can be").expect("it is free");
        assert!(Lock::take(&path).expect("it can be").is_none());
        let watch = Watch::on(&path).expect("it is there");
        let child = start(shell("while :; do sleep 1; done"), lock).expect("there is a shell");
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(
            Lock::take(&path).expect("it can be").is_none(),
            "the process has it"
        );
        assert_eq!(
            nix::unistd::getsid(Some(pid)),
            Ok(pid),
            "a session of its own"
        );

        // As a daemon that is started anew waits for it, and as this one does.
        let another = Watch::on(&path).expect("it is there");
        let waits = std::thread::spawn({
            let said = said.clone();
            move || another.wait(&said)
        });
        nix::sys::signal::killpg(pid, Signal::SIGKILL).expect("it lives");
        let exit = watch.of_child(child).wait(&said);
        assert_eq!(exit.status, Some(137));
        assert_eq!(exit.reason, "ended by SIGKILL; it said: no room");
        let exit = waits.join().expect("it ends");
        assert_eq!(exit.status, None);
        assert!(exit.reason.contains("started anew") && exit.reason.contains("no room"));
        assert!(kill(pid, None).is_err(), "it was waited for");
        assert!(Lock::take(&path).expect("it can be").is_some());
    }

    #[test]
    fn an_exit_status_comes_with_the_last_words() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, said) = (folder.path().join("lock"), said(&folder));
        let lock = Lock::take(&path).expect("it can be").expect("it is free");
        let watch = Watch::on(&path).expect("it is there");
        let mut command = shell("echo 'ftvm: no KVM' >&2; exit 2");
        command.stderr(File::create(&said.log).expect("a file"));
        let child = start(command, lock).expect("there is a shell");
        let exit = watch.of_child(child).wait(&said);
        let expected = Exit {
            status: Some(2),
            cause: Cause::Other,
            reason: "it said: no KVM".to_owned(),
        };
        assert_eq!(exit, expected);
        assert_eq!(Exit::unseen(&said).status, None);
    }

    #[test]
    fn a_process_that_nobody_waited_for_is_believed_that_its_guest_ended() {
        let folder = tempfile::tempdir().expect("a directory");
        let said = said(&folder);
        for (reason, status) in [
            ("PowerOff", Some(0)),
            ("TripleFault", Some(5)),
            ("Failed: no room", None),
        ] {
            let role = "{\"event\":\"role\",\"role\":\"primary\",\"epoch\":1}";
            let ended = format!("{{\"event\":\"ended\",\"reason\":\"{reason}\",\"exits\":7}}");
            fs::write(&said.events, format!("{role}\n{ended}\n")).expect("a file");
            assert_eq!(Exit::unseen(&said).status, status, "{reason}");
            fs::write(&said.events, format!("{ended}\n{role}\n")).expect("a file");
            assert_eq!(Exit::unseen(&said).status, None, "it ran again");
        }
    }

    #[test]
    fn what_kept_it_is_told_by_its_last_event_and_not_by_words() {
        let folder = tempfile::tempdir().expect("a directory");
        let said = said(&folder);
        fs::write(&said.log, "ftvm: cannot connect\n").expect("a file");
        for cause in [None, Some(Cause::Other), Some(Cause::Unreached)] {
            let ended = Event::Ended {
                reason: "Failed: cannot connect".to_owned(),
                cause,
                exits: 0,
            };
            let line = serde_json::to_string(&ended).expect("plain data");
            fs::write(&said.events, line + "\n").expect("a file");
            assert_eq!(Exit::unseen(&said).cause, cause.unwrap_or(Cause::Other));
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("process.json");
        assert!(Record::read(&path).is_err());
        let record = Record {
            role: "primary".to_owned(),
            tap: "ftvm-db".to_owned(),
            listen: "10.0.1.1:7430".parse().expect("an address"),
            memory_mib: 128,
            pid: Some(7),
            ended: None,
        };
        record.write(&path).expect("it can be written");
        assert_eq!(Record::read(&path).expect("it is there"), record);
    }
}
