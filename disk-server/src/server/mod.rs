//! The server process: binds, serves each client in a thread of its own, ends in order.

mod accept;
mod connections;
mod descriptors;
mod ending;
mod services;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::arbiter::{EpochStore, OpenStateError};
use crate::export::{Export, Exports, ExportsError};
use crate::fence::FencedStore;
use crate::nbd::ExportName;
use crate::storage::FlushError;
use accept::{Listener, Service, accept_until_woken};
use services::{ArbiterService, NbdService};

pub(crate) use ending::Ending;

/// What a server needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the arbiter listens. Port 0 takes a free one; see [`Server::local_addr`].
    pub listen: SocketAddr,
    /// The directory of everything that must survive the process.
    pub state: PathBuf,
    /// The disks, if there are any.
    pub nbd: Option<NbdConfig>,
    /// What clients may use up.
    pub limits: Limits,
}

/// What a server needs to know to export disks.
#[derive(Debug)]
pub struct NbdConfig {
    /// Where to listen for NBD clients. Port 0 takes a free one; see [`Server::nbd_addr`].
    pub listen: SocketAddr,
    /// What they can open.
    pub exports: Vec<Export>,
}

/// What clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time, of the arbiter's clients and of NBD clients each.
    pub connections: usize,
    /// How long a connection to the arbiter may be without a request.
    pub idle: Duration,
    /// How long a line may take from its first byte to its last.
    pub line: Duration,
    /// How long an NBD client may take to choose an export.
    pub negotiation: Duration,
    /// How long an NBD request may take from its first byte to its last, and a reply.
    pub message: Duration,
    /// How many requests of one NBD client are under way at a time.
    pub requests: usize,
    /// How long a claim, or a connection that takes over from another one, waits until writes of
    /// others have landed, before it is told to ask again.
    pub clearing: Duration,
    /// How much data the requests of one NBD client that are under way may have together, in bytes.
    /// It is never less than 256 KiB. Longer requests are done in pieces.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            idle: Duration::from_secs(60),
            line: Duration::from_secs(5),
            negotiation: Duration::from_secs(30),
            message: Duration::from_secs(60),
            requests: 16,
            // Less than the patience of our own clients.
            clearing: Duration::from_secs(2),
            memory: 2 << 20,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("cannot listen on {address}: the address is in use, perhaps by another disk-server; `ss -ltnp 'sport = :{}'` shows by whom. Stop that program, or choose another port with {option}", address.port())]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
        /// The option that chose it.
        option: &'static str,
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
    State(#[from] OpenStateError),
    /// Two exports have the same name.
    #[error("two exports are called {0}; every --export needs a name of its own")]
    SameName(ExportName),
    /// The system refuses what every server needs.
    #[error("cannot set up the server")]
    Setup(#[source] io::Error),
}

impl From<ExportsError> for StartError {
    fn from(error: ExportsError) -> Self {
        match error {
            ExportsError::Twice(name) => StartError::SameName(name),
            ExportsError::Boot(error) => StartError::Setup(error),
        }
    }
}

/// A claim is answered when it is on stable storage. Where the images are on the same file system,
/// it may be there only behind gigabytes that guests have written.
fn warn_of_sharing(state: &Path, exports: &[Export]) {
    let sharing = exports
        .iter()
        .filter(|export| export.shares_file_system(state))
        .map(|export| export.name().as_str());
    let names = sharing.collect::<Vec<_>>().join(", ");
    if !names.is_empty() {
        log::warn!(
            "the state {} is on the file system of {names}: a failover may have to wait for what \
             guests have written there. Keep the state on a disk of its own",
            state.display()
        );
    }
}

/// Why a running server ends before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listening socket failed.
    #[error("cannot accept connections any more")]
    Accept(#[source] io::Error),
    /// What clients wrote did not reach the disk. Linux tells so once and drops the data, so that
    /// no later flush can be believed; clients that know this repeat what they wrote to the next
    /// server.
    #[error(
        "the export {export} cannot be flushed; look at its disk and start the server again \
         (guests wait, and repeat what was not flushed)"
    )]
    Flush {
        /// The export.
        export: ExportName,
        /// What the system said.
        source: FlushError,
    },
}

/// A server that listens, and does not serve yet.
#[derive(Debug)]
pub struct Server {
    arbiter: Listener,
    arbiter_service: ArbiterService,
    nbd: Option<(Listener, NbdService)>,
    wake: UnixStream,
    stop: StopHandle,
    ending: Ending,
}

/// Ends a server from another thread.
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<UnixStream>);

impl StopHandle {
    /// Tells the server to end: no new connections; decisions and requests under way are finished.
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
    pub fn bind(config: Config) -> Result<Server, StartError> {
        let Config {
            listen,
            state,
            nbd,
            mut limits,
        } = config;
        let disks = nbd.as_ref().map_or(0, |nbd| nbd.exports.len());
        limits.connections = descriptors::fit(limits.connections, disks);
        let (wake, stop) = UnixStream::pair().map_err(StartError::Setup)?;
        stop.set_nonblocking(true).map_err(StartError::Setup)?;
        let stop = StopHandle(Arc::new(stop));
        let ending = Ending::new(stop.clone());
        // The state first: a client must not connect to a server that then does not start.
        let mut store = FencedStore::new(EpochStore::open(&state)?);
        let (nbd, exports) = match nbd {
            None => (None, Arc::default()),
            Some(NbdConfig { listen, exports }) => {
                warn_of_sharing(&state, &exports);
                let exports = Exports::new(exports, &mut store, &ending)?;
                let listener = Listener::bind(listen, "--nbd-listen", limits.connections)?;
                let exports = Arc::new(exports);
                let service = NbdService::new(Arc::clone(&exports), &limits);
                (Some((listener, service)), exports)
            }
        };
        Ok(Server {
            arbiter: Listener::bind(listen, "--listen", limits.connections)?,
            arbiter_service: ArbiterService::new(store, exports, &limits),
            nbd,
            wake,
            stop,
            ending,
        })
    }

    /// Where the arbiter listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.arbiter.local_addr()
    }

    /// Where NBD clients connect, with the real port; `None` when nothing is exported.
    #[must_use]
    pub fn nbd_addr(&self) -> Option<SocketAddr> {
        self.nbd.as_ref().map(|(listener, _)| listener.local_addr())
    }

    /// What ends it.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves until it is stopped. When this returns, every decision is on stable storage, every
    /// request is answered, and the state and the exports are closed.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(self) -> Result<(), RunError> {
        let mut services: Vec<(&Listener, &dyn Service)> =
            vec![(&self.arbiter, &self.arbiter_service)];
        if let Some((listener, service)) = &self.nbd {
            services.push((listener, service));
        }
        let accepted = accept_until_woken(&self.wake, &services);
        match self.ending.take() {
            Some(failure) => Err(failure),
            None => accepted.map_err(RunError::Accept),
        }
    }
}
