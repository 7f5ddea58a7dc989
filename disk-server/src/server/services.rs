//! What the server's listeners serve: the arbiter's protocol, and NBD.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use confinement::Calls;
use transport::{ConnectionError, Endpoint, Opening, Patience};

use super::accept::Service;
use super::config::Limits;
use super::connections::Registration;
use super::intervals::Intervals;
use crate::arbiter::session;
use crate::export::Exports;
use crate::fence::FencedStore;
use crate::fleet::FleetService;
use crate::logging::Limited;
use crate::monitoring::Pulse;
use crate::nbd::session as nbd;
use crate::policy::Guard;
use crate::stream::CLIENTS;

/// What the server decides about, and what it has.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) store: Arc<FencedStore>,
    pub(super) exports: Arc<Exports>,
    pub(super) fleet: Arc<FleetService>,
    pub(super) guard: Arc<Guard>,
}

/// Decides about epochs, and about guests.
#[derive(Debug)]
pub(super) struct ArbiterService {
    /// Ends before the rest.
    _intervals: Intervals,
    ground: Ground,
    endpoint: Endpoint,
    limits: session::SessionLimits,
}

impl ArbiterService {
    pub(super) fn new(
        ground: Ground,
        endpoint: Endpoint,
        limits: &Limits,
        pulse: Pulse,
    ) -> std::io::Result<ArbiterService> {
        let intervals = {
            let (store, fleet) = (Arc::clone(&ground.store), Arc::clone(&ground.fleet));
            Intervals::start(move || {
                fleet.tick(&*store);
                pulse.beat();
            })?
        };
        Ok(ArbiterService {
            _intervals: intervals,
            ground,
            endpoint,
            limits: session::SessionLimits {
                idle: limits.idle,
                line: limits.line,
                clearing: limits.clearing,
            },
        })
    }
}

impl Service for ArbiterService {
    fn thread_name(&self) -> &'static str {
        "arbiter-session"
    }

    fn calls(&self) -> &'static [Calls] {
        &[Calls::Files, Calls::Storage]
    }

    fn serve(&self, socket: Arc<TcpStream>, registration: &Registration<'_>) {
        let from = socket.peer_addr();
        let opening = Opening::Preface(transport::Service::DiskServer);
        let patience = Patience::of(self.limits.line);
        let answered = (self.endpoint).answer(socket, opening, CLIENTS, patience);
        let stream = match answered {
            Ok(stream) => stream,
            Err(error) => return not_opened(&self.ground.guard, from, &error),
        };
        if !registration.let_in() {
            return;
        }
        let subject = session::Subject {
            store: &self.ground.store,
            exports: &self.ground.exports,
            fleet: &self.ground.fleet,
            guard: &self.ground.guard,
        };
        session::serve(stream, subject, self.limits);
    }

    fn end(&self) {
        // Its sessions end with their connections' readable halves, after the decision under way.
    }
}

/// Somebody whose connection came to nothing: who tried what is for the log.
fn not_opened(guard: &Guard, from: std::io::Result<SocketAddr>, error: &ConnectionError) {
    static NOT_OPENED: Limited = Limited::new();
    // One that left at once is nobody.
    if matches!(error, ConnectionError::HungUp | ConnectionError::Io(_)) {
        log::debug!("a client: {error}");
        return;
    }
    guard.not_let_in();
    if let Some(left_out) = NOT_OPENED.let_through() {
        let from = from.map_or_else(|_| "somewhere".to_owned(), |it| it.to_string());
        log::warn!("the client at {from} is not let in: {error}{left_out}");
    }
}

/// Serves disks.
#[derive(Debug)]
pub(super) struct NbdService {
    exports: Arc<Exports>,
    guard: Arc<Guard>,
    endpoint: Endpoint,
    limits: nbd::SessionLimits,
    ending: AtomicBool,
}

impl NbdService {
    pub(super) fn new(
        exports: Arc<Exports>,
        guard: Arc<Guard>,
        endpoint: Endpoint,
        limits: &Limits,
    ) -> NbdService {
        NbdService {
            exports,
            guard,
            endpoint,
            limits: nbd::SessionLimits {
                negotiation: limits.negotiation,
                message: limits.message,
                requests: limits.requests,
                clearing: limits.clearing,
                memory: limits.memory,
            },
            ending: AtomicBool::new(false),
        }
    }
}

impl Service for NbdService {
    fn thread_name(&self) -> &'static str {
        "nbd-session"
    }

    fn calls(&self) -> &'static [Calls] {
        &[Calls::Threads, Calls::Files, Calls::Storage]
    }

    fn serve(&self, socket: Arc<TcpStream>, registration: &Registration<'_>) {
        let subject = nbd::Subject {
            exports: &self.exports,
            guard: &self.guard,
            endpoint: &self.endpoint,
        };
        let has_place = || registration.let_in();
        nbd::serve(socket, subject, self.limits, (&self.ending, &has_place));
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}
