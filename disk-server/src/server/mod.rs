//! The server process: binds, serves each client in a thread of its own, ends in order.

pub(crate) mod accept;
mod config;
pub(crate) mod connections;
mod descriptors;
mod error;
mod intervals;
mod metrics;
mod services;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use transport::Mode;

use crate::arbiter::EpochStore;
use crate::ending::Ending;
use crate::export::{Export, Exports};
use crate::fence::FencedStore;
use crate::fleet::FleetService;
use crate::monitoring::{Exporter, Pulse};
use crate::policy::Guard;
use crate::state::StateDirectory;
use accept::{Listener, Service, accept_until_woken};
use connections::Standing;
use metrics::Metrics;
use services::{ArbiterService, Ground, NbdService};

pub use config::{Config, Limits, NbdConfig};
pub use error::StartError;

pub use crate::ending::{RunError, StopHandle};

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

/// A server that listens, and does not serve yet.
#[derive(Debug)]
pub struct Server {
    arbiter: Listener,
    arbiter_service: ArbiterService,
    nbd: Option<(Listener, NbdService)>,
    exporter: Option<Exporter>,
    wake: UnixStream,
    stop: StopHandle,
    ending: Ending,
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
            endpoint,
            nbd,
            metrics,
            limits,
        } = config;
        let disks = nbd.as_ref().map_or(0, |nbd| nbd.exports.len());
        let watchers = metrics.map_or(0, |_| Exporter::DESCRIPTORS);
        let places = descriptors::fit(limits.connections, disks + watchers);
        let (wake, stop) = UnixStream::pair().map_err(StartError::Setup)?;
        stop.set_nonblocking(true).map_err(StartError::Setup)?;
        let stop = StopHandle::new(stop);
        let ending = Ending::new(stop.clone());
        let directory = StateDirectory::open(&state)?;
        // The state first: a client must not connect to a server that then does not start.
        let mut store = FencedStore::new(EpochStore::open(&directory)?);
        let fleet = Arc::new(FleetService::open(&directory)?);
        let guard = Arc::new(Guard::new(fleet.clone()));
        let newcomers = match endpoint.mode() {
            Mode::Plain => {
                log::warn!(
                    "plain, as asked for: whoever can connect may do everything, and read and write the disks"
                );
                Standing::Known
            }
            Mode::Secure => Standing::Stranger,
        };
        let (nbd, exports) = match nbd {
            None => (None, Arc::default()),
            Some(NbdConfig { listen, exports }) => {
                warn_of_sharing(&state, &exports);
                let exports = Exports::new(exports, &mut store, &ending)?;
                let listener = Listener::bind(listen, "--nbd-listen", newcomers, places)?;
                let exports = Arc::new(exports);
                let service = NbdService::new(
                    Arc::clone(&exports),
                    guard.clone(),
                    endpoint.clone(),
                    &limits,
                );
                (Some((listener, service)), exports)
            }
        };
        let arbiter = Listener::bind(listen, "--listen", newcomers, places)?;
        let ground = Ground {
            store: Arc::new(store),
            exports,
            fleet,
            guard,
        };
        let pulse = Pulse::new();
        let watched = Metrics {
            ground: ground.clone(),
            connections: (nbd.iter().map(|(listener, _)| ("nbd", listener)))
                .chain([("arbiter", &arbiter)])
                .map(|(service, listener)| (service, listener.connections().clone()))
                .collect(),
            pulse: pulse.clone(),
        };
        let exporter = metrics
            .map(|address| Exporter::bind(address, "--metrics", Arc::new(watched)))
            .transpose()?;
        Ok(Server {
            arbiter,
            arbiter_service: ArbiterService::new(ground, endpoint, &limits, pulse)
                .map_err(StartError::Setup)?,
            nbd,
            exporter,
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

    /// Where those who watch it connect, with the real port; `None` when they are told nothing.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(Exporter::local_addr)
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
        services.extend(self.exporter.iter().map(Exporter::service));
        let accepted = accept_until_woken(&self.wake, &services);
        match self.ending.take() {
            Some(failure) => Err(failure),
            None => accepted.map_err(RunError::Accept),
        }
    }
}
