//! What the server's listeners serve: the arbiter's protocol, and NBD.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::accept::Service;
use super::{Ending, Limits};
use crate::arbiter::ServerNumber;
use crate::arbiter::session;
use crate::export::Exports;
use crate::fence::FencedStore;
use crate::nbd::session as nbd;

/// Decides about epochs.
#[derive(Debug)]
pub(super) struct ArbiterService {
    number: ServerNumber,
    store: FencedStore,
    exports: Arc<Exports>,
    limits: session::SessionLimits,
    ending: Ending,
}

impl ArbiterService {
    pub(super) fn new(
        number: ServerNumber,
        store: FencedStore,
        exports: Arc<Exports>,
        limits: &Limits,
        ending: Ending,
    ) -> ArbiterService {
        ArbiterService {
            number,
            store,
            exports,
            limits: session::SessionLimits {
                idle: limits.idle,
                line: limits.line,
                clearing: limits.clearing,
            },
            ending,
        }
    }
}

impl Service for ArbiterService {
    fn thread_name(&self) -> &'static str {
        "arbiter-session"
    }

    fn serve(&self, stream: Arc<TcpStream>) {
        let subject = session::Subject {
            number: self.number,
            store: &self.store,
            exports: &self.exports,
        };
        if let Err(failure) = session::serve(stream, subject, self.limits) {
            self.ending.fail(failure);
        }
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
