//! Whose keys are believed, and who that is: one file, which may change at any time.
//!
//! It is read anew for each handshake, and four times a second for as long as there are connections: those of
//! somebody who is not listed any more end then. A file that cannot be used changes nothing, and is complained
//! about: one that an editor has written by half must not end what protects a guest.

mod list;

use std::fmt;
use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use self::list::List;
use crate::credential::Credential;
use crate::peer::Peer;

/// Where the file is if nothing else is said.
pub const TRUST_FILE: &str = "/etc/ftvm/trust.toml";

/// How often the file is looked at while there are connections.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whose keys are believed. A copy is the same one.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// What the file said when it was read last, or why it was not.
    text: Result<String, String>,
    /// What it said when it could be used last.
    list: List,
    connections: Vec<Connection>,
    is_watched: bool,
}

/// An open connection.
struct Connection {
    credential: Credential,
    peer: Peer,
    socket: Weak<TcpStream>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// There is none.
    #[error(
        "there is no {}: write it, with the keys of those who are trusted (docs/keys.md), or say `plain` to do without keys on every side",
        path.display()
    )]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

impl Trust {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let path = path.to_owned();
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TrustError::Missing { path: path.clone() },
            _ => TrustError::Read {
                path: path.clone(),
                source,
            },
        })?;
        let list = List::parse(&text).map_err(|error| TrustError::Parse {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let state = State {
            text: Ok(text),
            list,
            connections: Vec::new(),
            is_watched: false,
        };
        Ok(Self(Arc::new(Shared {
            path,
            state: Mutex::new(state),
        })))
    }

    /// Who has this credential.
    pub(crate) fn identify(&self, credential: &Credential) -> Option<Peer> {
        let mut state = self.0.state.lock();
        state.renew(&self.0.path);
        state.list.identify(credential)
    }

    /// Ends a connection of this peer's when it is not listed any more, at once if it is not now.
    pub(crate) fn watch(
        &self,
        credential: Credential,
        peer: Peer,
        socket: &Arc<TcpStream>,
    ) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.connections.push(Connection {
            credential,
            peer,
            socket: Arc::downgrade(socket),
        });
        state.renew(&self.0.path);
        state.end_unlisted();
        if !state.is_watched {
            let shared = Arc::downgrade(&self.0);
            thread::Builder::new()
                .name("trust".into())
                .spawn(move || watch(&shared))?;
            state.is_watched = true;
        }
        Ok(())
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.path).finish()
    }
}

/// Looks at the file until there are no connections.
fn watch(shared: &Weak<Shared>) {
    loop {
        thread::sleep(LOOK_INTERVAL);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut state = shared.state.lock();
        state.renew(&shared.path);
        state.end_unlisted();
        if state.connections.is_empty() {
            state.is_watched = false;
            return;
        }
    }
}

impl State {
    /// Reads the file anew.
    fn renew(&mut self, path: &Path) {
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        if text == self.text {
            return;
        }
        let list = text
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|text| List::parse(text).map_err(|error| error.to_string()));
        match list {
            Ok(list) => {
                log::info!("read {} anew", path.display());
                self.list = list;
            }
            Err(reason) => log::error!(
                "{}: {reason}; what it said before stays in force",
                path.display()
            ),
        }
        self.text = text;
    }

    fn end_unlisted(&mut self) {
        let list = &self.list;
        self.connections.retain(|connection| {
            let Some(socket) = connection.socket.upgrade() else {
                return false;
            };
            let is_listed =
                list.identify(&connection.credential).as_ref() == Some(&connection.peer);
            if !is_listed {
                log::warn!(
                    "the {} is not listed any more: its connection ends",
                    connection.peer
                );
                let _ = socket.shutdown(Shutdown::Both);
            }
            is_listed
        });
    }
}
