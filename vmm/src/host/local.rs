//! What this host knows of its guests by itself, for operators on it: the disk server need not answer.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk_server::arbiter::{Claimant, HostName, VmName};
use disk_server::views::Role;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::control;
use super::folders::Folders;
use super::serving::serve;
use super::tending::Tending;
use crate::control::Status;
use crate::lines::{MAX_QUESTION, read_line, write_line};

/// For the line that asks.
const PATIENCE: Duration = Duration::from_secs(10);
/// For each guest's process.
const PATIENCE_WITH_GUEST: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Guests {},
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Guests { host: HostName, guests: Vec<Guest> },
    Error { error: String },
}

/// A guest that has a process here.
#[derive(Serialize)]
struct Guest {
    vm: VmName,
    claimant: Option<Claimant>,
    /// As in its pings; null if it does not say.
    role: Option<Role>,
}

/// Answers for as long as this process lives.
///
/// # Errors
/// The host has no thread for it.
pub(super) fn answer(
    listener: UnixListener,
    host: HostName,
    folders: Folders,
    tending: Arc<Mutex<Tending>>,
) -> io::Result<()> {
    let accept = move || Ok(listener.accept()?.0);
    serve("local", accept, move |stream: UnixStream| {
        if let Err(error) = converse(&stream, &host, &folders, &tending) {
            log::debug!("a local connection: {error}");
        }
    })
}

fn converse(
    stream: &UnixStream,
    host: &HostName,
    folders: &Folders,
    tending: &Mutex<Tending>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(stream, MAX_QUESTION, Instant::now() + PATIENCE)?;
    let answer = match serde_json::from_str(&line) {
        Err(error) => Answer::Error {
            error: format!("not a question: {error}"),
        },
        Ok(Request::Guests {}) => {
            let known = tending.lock().guests().clone();
            let guests = known.into_iter().map(|(vm, guest)| {
                let said = status(folders, &vm);
                let (claimant, role) = match said {
                    Some(Status { claimant, role }) => (Some(claimant), Some(role)),
                    None => (guest.claimant, None),
                };
                Guest { vm, claimant, role }
            });
            Answer::Guests {
                host: host.clone(),
                guests: guests.collect(),
            }
        }
    };
    write_line(stream, &answer)
}

/// What a guest's process on this host says it is.
pub(super) fn status(folders: &Folders, vm: &VmName) -> Option<Status> {
    let socket = folders.guest(vm).and_then(|guest| guest.control()).ok()?;
    let said = control::status(&socket, PATIENCE_WITH_GUEST);
    said.inspect_err(|error| log::debug!("{vm} does not say how it is: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::host::tending;

    #[test]
    fn guests_are_told_with_what_their_processes_say() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        let folders = Folders::make(&path.join("run"), &path.join("state")).expect("it can be");
        let mut tending = Tending::new(0);
        let vm = |name: &str| -> VmName { name.parse().expect("a name") };
        for name in ["db", "web"] {
            tending.is_here(&vm(name), tending::Guest::default());
        }
        let guest = folders.guest(&vm("db")).expect("a plain name");
        guest.make().expect("it can be made");
        let control = UnixListener::bind(guest.control().expect("short")).expect("it is free");
        let process = std::thread::spawn(move || {
            let (stream, _) = control.accept().expect("it is asked");
            let said = Status {
                claimant: "a/1".parse().expect("a claimant"),
                role: Role::Idle {
                    vm: "db".parse().expect("a name"),
                    declined: None,
                },
            };
            write_line(&stream, &said).expect("it reads");
            // Until it was read.
            let _ = read_line(&stream, 99, Instant::now() + PATIENCE);
            let _ = read_line(&stream, 99, Instant::now() + PATIENCE);
        });
        let socket = folders.socket().expect("short");
        let listener = UnixListener::bind(&socket).expect("it is free");
        let host: HostName = "a".parse().expect("a name");
        answer(listener, host, folders, Arc::new(Mutex::new(tending))).expect("a thread");
        let ask = |line: &str| {
            let mut stream = UnixStream::connect(&socket).expect("it listens");
            writeln!(stream, "{line}").expect("it reads");
            let deadline = Instant::now() + Duration::from_secs(60);
            let answer = read_line(&stream, 4096, deadline).expect("an answer");
            serde_json::from_str::<serde_json::Value>(&answer).expect("JSON")
        };
        let told = ask("{\"ask\":\"guests\"}");
        assert_eq!(told["host"], "a");
        assert_eq!(told["guests"][0]["claimant"], "a/1");
        assert_eq!(told["guests"][0]["role"]["idle"]["vm"], "db");
        assert_eq!(told["guests"][1]["vm"], "web");
        assert!(told["guests"][1]["role"].is_null());
        assert!(ask("{\"ask\":\"beer\"}")["error"].is_string());
        process.join().expect("it does not panic");
    }
}
