//! What this host's daemon knows of its guests, for when the service does not answer.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk_server::arbiter::{Claimant, HostName, VmName};
use disk_server::fleet::{LagBounds, Member, Placement, Reason, State, VmStatus};
use disk_server::views::Role;
use serde::Deserialize;
use serde_json::json;

use crate::lines;

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that it may say, in bytes: some hundred for each guest.
const MAX_ANSWER: usize = 64 << 10;

/// What a host knows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Known {
    /// Which host.
    pub host: HostName,
    /// Its processes.
    pub guests: Vec<Process>,
}

/// A guest's process on this host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Process {
    /// The guest.
    pub vm: VmName,
    /// Which run of ftvm; `None` if that is not known yet.
    pub claimant: Option<Claimant>,
    /// What it does; `None` if it does not say.
    pub role: Option<Role>,
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
    let stream = UnixStream::connect(path)?;
    lines::ask(&stream, &json!({ "ask": "guests" }), MAX_ANSWER, PATIENCE)
}

impl Known {
    /// The guests as this host knows them: where the other copies are it does not.
    #[must_use]
    pub fn guests(&self) -> Vec<VmStatus> {
        let guests = self.guests.iter().map(|process| self.guest(process));
        let mut guests: Vec<VmStatus> = guests.collect();
        guests.sort_by(|one, other| one.vm.cmp(&other.vm));
        guests
    }

    fn guest(&self, process: &Process) -> VmStatus {
        let here = process.claimant.as_ref().map(|claimant| Member {
            host: self.host.clone(),
            claimant: claimant.clone(),
            live: true,
            console: None,
        });
        let (primary, backup) = (here.clone(), here);
        let (view, condition, placement) = match &process.role {
            None | Some(Role::Host(_) | Role::Idle { .. }) => (0, None, Placement::default()),
            Some(Role::Primary {
                epoch, condition, ..
            }) => {
                let backup = None;
                (*epoch, Some(condition), Placement { primary, backup })
            }
            Some(Role::Backup {
                epoch, condition, ..
            }) => {
                let primary = None;
                (*epoch, Some(condition), Placement { primary, backup })
            }
        };
        VmStatus {
            vm: process.vm.clone(),
            defined: true,
            // Without the service nobody may go on if this host is lost.
            state: State::NotProtected(Reason::ServiceUnreachable {}),
            view,
            placement,
            lag_ms: condition.map(|condition| condition.lag_ms),
            lag: LagBounds::default(),
            log_bytes_per_second: condition.map(|condition| condition.log_bytes_per_second),
            last_failover: None,
            last_failure: None,
            pending: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_host_tells_its_guests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.sock");
        let error = ask(&path).unwrap_err().to_string();
        assert!(error.contains("is `ftvm host` running"), "{error}");

        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let answer = r#"{"host":"b","guests":[{"vm":"web","claimant":null,"role":null},
                {"vm":"db","claimant":"b/1","role":{"backup":{"vm":"db","epoch":4,"condition":
                {"phase":"protected","lag_ms":12,"log_bytes_per_second":5,"went_live":null}}}}]}"#;
            writeln!(stream, "{}", answer.replace('\n', "")).unwrap();
            line
        });
        let guests = ask(&path).unwrap().guests();
        assert_eq!(daemon.join().unwrap(), "{\"ask\":\"guests\"}\n");
        let [db, web] = &guests[..] else {
            panic!("{guests:?}");
        };
        assert_eq!((db.view, db.lag_ms), (4, Some(12)));
        assert_eq!(db.placement.backup.as_ref().unwrap().host.as_str(), "b");
        assert_eq!(db.state.to_string(), "Not protected: service unreachable");
        assert_eq!(web.placement, Placement::default());
    }
}
