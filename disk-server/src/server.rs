//! The server process: binds, serves each client in a thread of its own, ends in order.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::arbiter::session::{self, SessionLimits, StoreFailure};
use crate::arbiter::{ClaimStoreError, EpochStore, OpenError, ReadStoreError};

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one; see [`Server::local_addr`].
    pub listen: SocketAddr,
    /// The directory of everything that must survive the process.
    pub state: PathBuf,
    /// What clients may use up.
    pub limits: Limits,
}

/// What clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// How long a line may take from its first byte to its last.
    pub line: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            idle: Duration::from_secs(60),
            line: Duration::from_secs(5),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("cannot listen on {address}: the address is in use, perhaps by another disk-server; `ss -ltnp 'sport = :{}'` shows by whom. Stop that program, or choose another port with --listen", address.port())]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: is it an address of this host?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The state cannot be used.
    #[error("cannot use the state")]
    State(#[from] OpenError),
    /// The system refuses what every server needs.
    #[error("cannot set up the server")]
    Setup(#[source] io::Error),
}

/// Why a running server ends before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The listening socket failed.
    #[error("cannot accept connections any more")]
    Accept(#[source] io::Error),
    /// A decision could not be stored. What is on the disk is unknown until it is opened again.
    #[error(
        "the state cannot be written; start the server again when the disk is well (hosts wait)"
    )]
    Claim(#[source] ClaimStoreError),
    /// Records could not be read.
    #[error("the state cannot be read; start the server again when the disk is well (hosts wait)")]
    Read(#[source] ReadStoreError),
}

/// A server that listens, and does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    store: EpochStore,
    limits: Limits,
    wake: UnixStream,
    stop: StopHandle,
}

/// Ends a server from another thread.
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<UnixStream>);

impl StopHandle {
    /// Tells the server to end: no new connections; decisions under way are finished.
    pub fn stop(&self) {
        // One byte wakes the server. If the pipe is full it is awake; if it is gone, so is the
        // server.
        let _ = (&*self.0).write(&[1]);
    }
}

impl Server {
    /// Opens the state and listens.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: &Config) -> Result<Server, StartError> {
        let address = config.listen;
        // The state first: a client must not connect to a server that then does not start.
        let store = EpochStore::open(&config.state)?;
        let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
            _ => StartError::Listen { address, source },
        })?;
        listener.set_nonblocking(true).map_err(StartError::Setup)?;
        let local = listener.local_addr().map_err(StartError::Setup)?;
        let (wake, stop) = UnixStream::pair().map_err(StartError::Setup)?;
        stop.set_nonblocking(true).map_err(StartError::Setup)?;
        Ok(Server {
            listener,
            local,
            store,
            limits: config.limits,
            wake,
            stop: StopHandle(Arc::new(stop)),
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What ends it.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves until it is stopped. When this returns, every decision is on stable storage and the
    /// state is closed.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(self) -> Result<(), RunError> {
        let connections = Connections::default();
        let accepted = thread::scope(|scope| {
            let result = self.accept_until_stopped(scope, &connections);
            // Readers see the end of their streams; a decision under way is finished first.
            connections.close_all();
            result
        });
        match connections.lock().failure.take() {
            Some(StoreFailure::Claim(error)) => Err(RunError::Claim(error)),
            Some(StoreFailure::Read(error)) => Err(RunError::Read(error)),
            None => accepted,
        }
    }

    fn accept_until_stopped<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        connections: &'scope Connections,
    ) -> Result<(), RunError> {
        loop {
            let mut fds = [
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(RunError::Accept(error.into())),
            }
            if fds[0].any().unwrap_or(false) {
                return Ok(());
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_transient(&error) => continue,
                Err(error) if is_exhaustion(&error) => {
                    log::warn!("cannot accept a connection for now: {error}");
                    if self.stopped_within(Duration::from_millis(100)) {
                        return Ok(());
                    }
                    continue;
                }
                Err(error) => return Err(RunError::Accept(error)),
            };
            self.start_session(scope, connections, stream);
        }
    }

    fn start_session<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        connections: &'scope Connections,
        stream: TcpStream,
    ) {
        let registered = stream
            .set_nonblocking(false)
            .and_then(|()| stream.try_clone())
            .map(|clone| connections.register(clone, self.limits.connections));
        let place = match registered {
            Ok(Some(place)) => place,
            Ok(None) => {
                log::debug!("{} connections: turned one away", self.limits.connections);
                session::turn_away(stream, "the server has as many connections as it may have");
                return;
            }
            Err(error) => {
                log::warn!("dropped a new connection: {error}");
                return;
            }
        };
        let limits = SessionLimits {
            idle: self.limits.idle,
            line: self.limits.line,
        };
        let spawned = thread::Builder::new()
            .name("arbiter-session".to_owned())
            .spawn_scoped(scope, move || {
                if let Err(failure) = session::serve(stream, &self.store, limits) {
                    connections.lock().failure.get_or_insert(failure);
                    self.stop.stop();
                }
                // Named, so that the closure owns the whole place and not a field of it: a place
                // that was given back at once let any number of clients in.
                drop(place);
            });
        if let Err(error) = spawned {
            log::warn!("dropped a new connection: no thread for it: {error}");
        }
    }

    /// Waits, and says whether the server was stopped meanwhile.
    fn stopped_within(&self, time: Duration) -> bool {
        let mut byte = [0];
        let waited = self
            .wake
            .set_read_timeout(Some(time))
            .and_then(|()| (&self.wake).read(&mut byte));
        matches!(waited, Ok(n) if n > 0)
    }
}

/// The connection was lost before it was accepted.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// The process or the system is out of file descriptors or memory, which passes.
fn is_exhaustion(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|raw| exhausted.contains(&Errno::from_raw(raw)))
}

/// The open connections, so that they can be counted and closed.
#[derive(Debug, Default)]
struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    streams: BTreeMap<u64, TcpStream>,
    next: u64,
    failure: Option<StoreFailure>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing is left half done under this lock, so a panic elsewhere does not matter here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, stream: TcpStream, max: usize) -> Option<Place<'_>> {
        let mut open = self.lock();
        if open.streams.len() >= max {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, stream);
        Some(Place {
            connections: self,
            id,
        })
    }

    fn close_all(&self) {
        for stream in self.lock().streams.values() {
            // Only the reading half: the answer to a decision under way may still leave.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

/// A connection's place among the open ones, given back when its session ends.
struct Place<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.id);
    }
}
