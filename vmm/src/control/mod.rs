//! A run's control socket (`--control PATH`): how it is, what it is to do, and the guest's console, for the
//! host's daemon and for users of the low level.
//!
//! ```text
//!     {"ask":"status"}
//!   < {"claimant":"hosta/5f1c","role":{"primary":{…}}}
//!     {"ask":"hand_over"}
//!   < {"ok":true}
//!     {"ask":"console"}
//!   < {"ok":true}
//!     bytes in both directions, until either side closes
//! ```
//!
//! One question a connection, in a line of JSON; `{"error":"…"}` says why it is not granted. Who may connect
//! is a matter of the file's mode: its owner alone.

mod console;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use confinement::Calls;
use disk_server::arbiter::Claimant;
use disk_server::views::Role;
use serde::{Deserialize, Serialize};

pub use self::console::Console;
use crate::lines::{MAX_QUESTION, read_line, write_line};
use crate::threads;

/// How long a question, and who reads the answer, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many connections at a time, and so many consoles beside them.
const MOST: usize = 16;

/// How soon a socket that takes no connection is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// What this run is.
    Status {},
    /// That its backup goes on with the guest.
    HandOver {},
    /// The guest's console.
    Console {},
}

/// What this run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who it is to the disk server.
    pub claimant: Claimant,
    /// As its pings say.
    pub role: Role,
}

#[derive(Serialize)]
struct Granted {
    ok: bool,
}

#[derive(Serialize)]
struct Refused {
    error: String,
}

/// A run that is asked.
pub trait Asked: Send + Sync + 'static {
    /// What it is; `None` when it is over.
    fn status(&self) -> Option<Status>;

    /// Has its backup go on with the guest: whether that is begun.
    ///
    /// # Errors
    /// Why not.
    fn hand_over(&self) -> Result<(), String>;

    /// Whether the guest's console is here.
    ///
    /// # Errors
    /// Where it is.
    fn has_console(&self) -> Result<(), String>;
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers there.
    #[error(
        "another process answers at the control socket {}: stop that first, or name another one",
        path.display()
    )]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is no socket: name another path with --control", path.display())]
    NoSocket {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot make the control socket {}", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A control socket at which nobody is answered yet.
#[derive(Debug)]
pub struct ControlSocket(UnixListener);

impl ControlSocket {
    /// Makes a socket for the owner alone, in place of one that a process has left behind.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Bind {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                let path = path.to_owned();
                return Err(ControlError::NoSocket { path });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                let path = path.to_owned();
                return Err(ControlError::InUse { path });
            }
            _ => {}
        }
        // Nobody finds it before its mode is right.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(failed)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&new, path).map_err(failed)?;
        Ok(Self(listener))
    }

    /// Answers for `run` from now on, on threads of its own, until the process ends. Who asks for the console
    /// gets this one.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn serve(self, run: impl Asked, console: Console) -> io::Result<()> {
        let run = Arc::new(run);
        let (places, consoles) = (Places::default(), Places::default());
        let serve = move || {
            loop {
                let stream = match self.0.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        log::debug!("the control socket: {error}");
                        std::thread::sleep(AGAIN);
                        continue;
                    }
                };
                let Some(place) = places.take() else {
                    answer(&stream, &refused("too many ask at once: try again"));
                    continue;
                };
                let (run, console, consoles) = (run.clone(), console.clone(), consoles.clone());
                let talk = move || talk(&stream, &*run, (&console, &consoles), place);
                if let Err(error) = threads::start("control", &[], talk) {
                    log::warn!("nobody is answered at the control socket: {error}");
                }
            }
        };
        threads::start("controls", &[Calls::Accept], serve).map(drop)
    }
}

/// Places for [`MOST`] at a time. A handle.
#[derive(Debug, Clone, Default)]
struct Places(Arc<AtomicUsize>);

/// A place, until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Places {
    fn take(&self) -> Option<Place> {
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.0.clone());
        (taken < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refused(why: impl Into<String>) -> Refused {
    Refused { error: why.into() }
}

fn answer(stream: &UnixStream, message: &impl Serialize) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    // One that is gone needs none.
    let _ = write_line(stream, message);
}

/// Deals with one connection, which has this place. A console has one of its own, so that those that are open keep
/// nobody from asking.
fn talk(
    stream: &UnixStream,
    run: &impl Asked,
    (console, consoles): (&Console, &Places),
    place: Place,
) {
    let question = read_line(stream, MAX_QUESTION, Instant::now() + PATIENCE);
    let ask = question.and_then(|question| Ok(serde_json::from_str(&question)?));
    let ask = match ask {
        Ok(ask) => ask,
        Err(error) => {
            // Where it has gone there is nobody to tell, which does no harm.
            answer(stream, &refused(format!("not a question: {error}")));
            return;
        }
    };
    let granted = match ask {
        Ask::Status {} => match run.status() {
            Some(status) => {
                answer(stream, &status);
                return;
            }
            None => Err("this run is over".into()),
        },
        Ask::HandOver {} => run.hand_over(),
        Ask::Console {} => run.has_console(),
    };
    if let Err(why) = granted {
        answer(stream, &refused(why));
        return;
    }
    let granted = Granted { ok: true };
    match ask {
        Ask::Console {} => match consoles.take() {
            Some(_place) => {
                drop(place);
                console.relay(stream, &granted);
            }
            None => answer(stream, &refused("it has too many consoles: close one")),
        },
        Ask::Status {} | Ask::HandOver {} => answer(stream, &granted),
    }
}

#[cfg(test)]
mod tests;
