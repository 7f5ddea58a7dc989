//! What the server's listeners serve: the arbiter's protocol, and NBD.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::accept::Service;
use super::config::Limits;
use super::intervals::Intervals;
use crate::arbiter::session;
use crate::export::Exports;
use crate::fence::FencedStore;
use crate::fleet::FleetService;
use crate::nbd::session as nbd;

/// Decides about epochs, and about guests.
#[derive(Debug)]
pub(super) struct ArbiterService {
    /// Ends before the rest.
    _intervals: Intervals,
    store: Arc<FencedStore>,
    exports: Arc<Exports>,
    fleet: Arc<FleetService>,
    limits: session::SessionLimits,
}

impl ArbiterService {
    pub(super) fn new(
        store: FencedStore,
        exports: Arc<Exports>,
        fleet: FleetService,
        limits: &Limits,
    ) -> std::io::Result<ArbiterService> {
        let (store, fleet) = (Arc::new(store), Arc::new(fleet));
        let intervals = {
            let (store, fleet) = (Arc::clone(&store), Arc::clone(&fleet));
            Intervals::start(move || fleet.tick(&*store))?
        };
        Ok(ArbiterService {
            _intervals: intervals,
            store,
            exports,
            fleet,
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

    fn serve(&self, stream: Arc<TcpStream>) {
        let subject = session::Subject {
            store: &self.store,
            exports: &self.exports,
            fleet: &self.fleet,
        };
        session::serve(stream, subject, self.limits);
    }

    fn end(&self) {
        // Its sessions end with their connections' readable halves, after the decision under way.
    }

    fn turn_away(&self, stream: &TcpStream) {
        session::turn_away(stream, "the server has as many connections as it may have");
    }
}

/// Serves disks.
#[derive(Debug)]
pub(super) struct NbdService {
    exports: Arc<Exports>,
    limits: nbd::SessionLimits,
    ending: AtomicBool,
}

impl NbdService {
    pub(super) fn new(exports: Arc<Exports>, limits: &Limits) -> NbdService {
        NbdService {
            exports,
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

    fn serve(&self, stream: Arc<TcpStream>) {
        nbd::serve(&stream, &self.exports, self.limits, &self.ending);
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn turn_away(&self, _: &TcpStream) {
        // The protocol has no word for it before the greetings: the connection is closed.
    }
}
