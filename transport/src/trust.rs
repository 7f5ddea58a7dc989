//! Whose keys are believed, and who that is: one file, which may change at any time.
//!
//! It is read anew for each handshake, and four times a second for as long as there are connections: those of
//! somebody who is not listed any more end when two looks have found the same. A file that cannot be used changes
//! nothing, and is complained about: one that an editor has written by half must not end what protects a guest.

mod list;

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use confinement::Calls;
use parking_lot::Mutex;

use self::list::List;
use crate::configuration::Faults;
use crate::credential::Credential;
use crate::error::ConnectionError;
use crate::file::{self, FileError, Forbidden};
use crate::peer::Peer;

/// Where the file is if nothing else is said.
pub const TRUST_FILE: &str = "/etc/ftvm/trust.toml";

/// How often the file is looked at while there are connections, and for how long it has to say the same before
/// one of them ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whose keys are believed. A copy is the same one.
#[derive(Clone)]
pub(crate) struct Trust(Arc<Shared>);

struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// What this program shows of itself.
    own: Credential,
    /// What the file said when it was read last, or why it was not.
    text: Result<String, String>,
    /// Since when.
    since: Instant,
    /// What the text means, if it can be used and was found only once. Connections that are opened go by it.
    next: Option<List>,
    /// What the text meant that was found twice and could be used. Open connections go by it.
    list: List,
    connections: Vec<Connection>,
    is_watched: bool,
}

/// An open connection.
struct Connection {
    credential: Credential,
    peer: Peer,
    socket: Weak<TcpStream>,
    is_revoked: Arc<AtomicBool>,
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
    /// It belongs to somebody else.
    #[error(
        "{} belongs to the user {owner}, who can have anybody trusted: `chown root {}`",
        path.display(),
        path.display()
    )]
    Owner {
        /// Its path.
        path: PathBuf,
        /// Number of its owner.
        owner: u32,
    },
    /// Others can write it.
    #[error(
        "others than its owner can write {} (mode {mode:04o}), and so have anybody trusted: `chmod go-w {}`",
        path.display(),
        path.display()
    )]
    Open {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{}", faults.in_file(path))]
    Parse {
        /// Its path.
        path: PathBuf,
        /// All that is wrong.
        faults: Faults,
    },
}

impl Trust {
    /// Reads the file, for a program that shows `own` of itself.
    ///
    /// # Errors
    /// [`TrustError`].
    pub(crate) fn read(path: &Path, own: Credential) -> Result<Self, TrustError> {
        let (text, list) = read_list(path)?;
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            state: Mutex::new(State::new(own, text, list)),
        })))
    }

    /// Who has this credential.
    pub(crate) fn identify(&self, credential: &Credential) -> Option<Peer> {
        let mut state = self.0.state.lock();
        state.renew(&self.0.path);
        state.newest().identify(credential)
    }

    /// Ends a connection of this peer's when it is not listed any more. What is given is set before that: nothing
    /// that came is to be believed from then on.
    ///
    /// # Errors
    /// [`ConnectionError`]: it is not listed any more, or this host has no thread for the watch.
    pub(crate) fn watch(
        &self,
        credential: Credential,
        peer: Peer,
        socket: &Arc<TcpStream>,
    ) -> Result<Arc<AtomicBool>, ConnectionError> {
        let mut state = self.0.state.lock();
        state.renew(&self.0.path);
        if state.newest().identify(&credential).as_ref() != Some(&peer) {
            return Err(ConnectionError::UnknownKey(credential.fingerprint));
        }
        if !state.is_watched {
            let shared = Arc::clone(&self.0);
            let named = thread::Builder::new().name("trust".into());
            confinement::spawn(named, &[Calls::Files], move || watch(&shared))
                .map_err(ConnectionError::Io)?;
            state.is_watched = true;
        }
        let is_revoked = Arc::new(AtomicBool::new(false));
        state.connections.push(Connection {
            credential,
            peer,
            socket: Arc::downgrade(socket),
            is_revoked: Arc::clone(&is_revoked),
        });
        Ok(is_revoked)
    }
}

/// Checks a file of those who are trusted, as programs do that read it.
///
/// # Errors
/// [`TrustError`].
pub fn check_trust(path: &Path) -> Result<(), TrustError> {
    read_list(path).map(drop)
}

/// Checks what such a file says.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_trust(text: &str) -> Result<(), Faults> {
    List::parse(text).map(drop)
}

fn read_list(path: &Path) -> Result<(String, List), TrustError> {
    let text = read(path)?;
    match List::parse(&text) {
        Ok(list) => Ok((text, list)),
        Err(faults) => Err(TrustError::Parse {
            path: path.to_owned(),
            faults,
        }),
    }
}

fn read(path: &Path) -> Result<String, TrustError> {
    let owned = path.to_owned();
    file::read(path, Forbidden::Writing).map_err(|error| match error {
        FileError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            TrustError::Missing { path: owned }
        }
        FileError::Io(source) => TrustError::Read {
            path: owned,
            source,
        },
        FileError::Owner(owner) => TrustError::Owner { path: owned, owner },
        FileError::Mode(mode) => TrustError::Open { path: owned, mode },
    })
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.path).finish()
    }
}

/// Looks at the file until there are no connections, which may be there for longer than any endpoint.
fn watch(shared: &Shared) {
    loop {
        thread::sleep(LOOK_INTERVAL);
        confinement::catch_up();
        let mut state = shared.state.lock();
        state.renew(&shared.path);
        state.connections.retain(Connection::is_open);
        if state.connections.is_empty() {
            state.is_watched = false;
            return;
        }
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        self.socket.strong_count() > 0
    }

    fn end(&self) {
        log::warn!(
            "the {} is not listed any more: its connection ends",
            self.peer
        );
        self.is_revoked.store(true, Ordering::SeqCst);
        if let Some(socket) = self.socket.upgrade() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn new(own: Credential, text: String, list: List) -> Self {
        Self {
            own,
            text: Ok(text),
            since: Instant::now(),
            next: None,
            list,
            connections: Vec::new(),
            is_watched: false,
        }
    }

    fn newest(&self) -> &List {
        self.next.as_ref().unwrap_or(&self.list)
    }

    /// Reads the file anew.
    fn renew(&mut self, path: &Path) {
        let text = read(path).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
        match self.find(text, Instant::now()) {
            Ok(true) => log::info!("read {} anew", path.display()),
            Ok(false) => {}
            Err(reason) => log::error!(
                "{}: {reason}; what it said before stays in force",
                path.display()
            ),
        }
    }

    /// The file says this `now`. Whether that is new.
    fn find(&mut self, text: Result<String, String>, now: Instant) -> Result<bool, String> {
        if text == self.text {
            if now.saturating_duration_since(self.since) >= LOOK_INTERVAL
                && let Some(list) = self.next.take()
            {
                self.list = list;
                self.end_unlisted();
            }
            return Ok(false);
        }
        self.next = None;
        self.since = now;
        self.text = text;
        self.next = Some(self.understand()?);
        Ok(true)
    }

    /// What the text means. The same file is for every machine: one without this program's own key is the half of
    /// another, or leaves this machine alone with those who revoke it.
    fn understand(&self) -> Result<List, String> {
        let list = List::parse(self.text.as_ref().map_err(Clone::clone)?)
            .map_err(|error| error.to_string())?;
        match self.list.identify(&self.own) {
            Some(own) if list.identify(&self.own).is_none() => Err(format!(
                "it does not list this program's own key any more, {} (the {own})",
                self.own.fingerprint
            )),
            _ => Ok(list),
        }
    }

    fn end_unlisted(&mut self) {
        let list = &self.list;
        self.connections.retain(|connection| {
            let is_listed =
                list.identify(&connection.credential).as_ref() == Some(&connection.peer);
            if !is_listed && connection.is_open() {
                connection.end();
            }
            is_listed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;

    fn key(n: u8) -> Credential {
        Credential {
            fingerprint: Fingerprint::of(&[n]),
            signed: None,
        }
    }

    /// Hosts with these keys.
    fn listed(hosts: &[u8]) -> String {
        let line = |n: &u8| format!("host{n} = \"{}\"\n", key(*n).fingerprint);
        let lines: String = hosts.iter().map(line).collect();
        format!("# Of this installation.\n[hosts]\n{lines}")
    }

    /// Of a program with the key 1, among 1, 2 and 3.
    fn state() -> State {
        let text = listed(&[1, 2, 3]);
        let list = List::parse(&text).expect("it is right");
        State::new(key(1), text, list)
    }

    fn lists(list: &List, n: u8) -> bool {
        list.identify(&key(n)).is_some()
    }

    #[test]
    fn a_removal_counts_when_it_was_found_twice_and_an_addition_at_once() {
        let (mut state, now) = (state(), Instant::now());
        assert_eq!(state.find(Ok(listed(&[1, 2, 4])), now), Ok(true));
        assert!(lists(&state.list, 3), "its connections go on");
        assert!(!lists(state.newest(), 3), "and it gets no other");
        assert!(lists(state.newest(), 4));
        let soon = now + LOOK_INTERVAL / 2;
        assert_eq!(state.find(Ok(listed(&[1, 2, 4])), soon), Ok(false));
        assert!(lists(&state.list, 3));
        let again = now + LOOK_INTERVAL;
        assert_eq!(state.find(Ok(listed(&[1, 2, 4])), again), Ok(false));
        assert!(!lists(&state.list, 3) && lists(&state.list, 4));
    }

    /// However far it has got, for as long as it takes.
    #[test]
    fn a_file_that_is_being_written_ends_nothing() {
        let (mut state, whole) = (state(), listed(&[1, 2, 3]));
        let mut now = Instant::now();
        for end in 0..=whole.len() {
            now += 2 * LOOK_INTERVAL;
            let _ = state.find(Ok(whole[..end].to_owned()), now);
            assert!([1, 2, 3].iter().all(|n| lists(&state.list, *n)), "{end}");
        }
        assert_eq!(state.newest(), &state.list);
    }

    #[test]
    fn a_half_without_this_program_or_with_nobody_ends_nothing_however_long_it_stays() {
        for half in [String::new(), "[hosts]\n".into(), listed(&[2, 3])] {
            let (mut state, now) = (state(), Instant::now());
            state.find(Ok(half.clone()), now).expect_err("it is told");
            let later = now + 10 * LOOK_INTERVAL;
            assert_eq!(state.find(Ok(half), later), Ok(false), "once");
            assert!([1, 2, 3].iter().all(|n| lists(state.newest(), *n)));
        }
    }
}
