//! What this host's daemon knows of its guests, for when the service does not answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk_server::arbiter::{Claimant, HostName};
use disk_server::fleet::{LagBounds, Member, Placement, Reason, State, VmStatus};
use disk_server::views::{Condition, Role};
use serde::Deserialize;

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that it may say, in bytes: some hundred for each guest.
const MAX_ANSWER: u64 = 64 << 10;

/// What a host knows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Known {
    /// Which host.
    pub host: HostName,
    /// Its processes.
    pub guests: Vec<Process>,
}

/// A run of ftvm on this host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Process {
    /// Which.
    pub claimant: Claimant,
    /// What it does.
    pub role: Role,
}

/// Why the daemon does not tell.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It does not answer.
    #[error("this host's daemon does not answer at {} either: is `ftvm host` running, and may you ask it (root)?", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It said something else.
    #[error("what answers at {} is not this version's `ftvm host`", path.display())]
    Unfitting {
        /// Its socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Asks the daemon at this socket.
///
/// # Errors
/// See [`LocalError`].
pub fn ask(path: &Path) -> Result<Known, LocalError> {
    let line = exchange(path).map_err(|source| LocalError::Unreachable {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&line).map_err(|source| LocalError::Unfitting {
        path: path.to_owned(),
        source,
    })
}

fn exchange(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"ask\":\"guests\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
    Ok(line)
}

impl Known {
    /// The guests as this host knows them: where the other copies are it does not.
    #[must_use]
    pub fn guests(&self) -> Vec<VmStatus> {
        let mut guests: Vec<VmStatus> = (self.guests.iter())
            .filter_map(|process| self.guest(process))
            .collect();
        guests.sort_by(|one, other| one.vm.cmp(&other.vm));
        guests
    }

    fn guest(&self, process: &Process) -> Option<VmStatus> {
        let here = || Member {
            host: self.host.clone(),
            claimant: process.claimant.clone(),
            live: true,
            console: None,
        };
        let (view, condition, placement) = match &process.role {
            Role::Host(_) => return None,
            Role::Idle { .. } => (0, Condition::default(), Placement::default()),
            Role::Primary {
                epoch, condition, ..
            } => {
                let primary = Some(here());
                let backup = None;
                (*epoch, *condition, Placement { primary, backup })
            }
            Role::Backup {
                epoch, condition, ..
            } => {
                let (primary, backup) = (None, Some(here()));
                (*epoch, *condition, Placement { primary, backup })
            }
        };
        Some(VmStatus {
            vm: process.role.vm()?.clone(),
            defined: true,
            // Without the service nobody may go on if this host is lost.
            state: State::NotProtected(Reason::ServiceUnreachable {}),
            view,
            placement,
            lag_ms: Some(condition.lag_ms),
            lag: LagBounds::default(),
            log_bytes_per_second: Some(condition.log_bytes_per_second),
            last_failover: None,
            pending: None,
        })
    }
}
