//! What the server's listeners serve: the arbiter's protocol, and NBD.

use std::net::TcpStream;
use std::sync::Arc;

use super::accept::Service;
use super::{Ending, Limits};
use crate::arbiter::ServerNumber;
use crate::arbiter::session;
use crate::export::Exports;
use crate::fence::FencedStore;
use crate::nbd::{Budget, session as nbd};

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

    fn serve(&self, stream: TcpStream) {
        let subject = session::Subject {
            number: self.number,
            store: &self.store,
            exports: &self.exports,
        };
        if let Err(failure) = session::serve(stream, subject, self.limits) {
            self.ending.fail(failure);
        }
    }

    fn turn_away(&self, stream: TcpStream) {
        session::turn_away(stream, "the server has as many connections as it may have");
    }
}

/// Serves disks.
#[derive(Debug)]
pub(super) struct NbdService {
    exports: Arc<Exports>,
    budget: Budget,
    limits: nbd::SessionLimits,
}

impl NbdService {
    pub(super) fn new(exports: Arc<Exports>, limits: &Limits) -> NbdService {
        NbdService {
            exports,
            budget: Budget::new(limits.memory),
            limits: nbd::SessionLimits {
                negotiation: limits.negotiation,
                message: limits.message,
                requests: limits.requests,
                clearing: limits.clearing,
            },
        }
    }
}

impl Service for NbdService {
    fn thread_name(&self) -> &'static str {
        "nbd-session"
    }

    fn serve(&self, stream: TcpStream) {
        nbd::serve(&stream, &self.exports, &self.budget, self.limits);
    }

    fn turn_away(&self, stream: TcpStream) {
        // The protocol has no word for it before the greetings: the connection is closed.
        drop(stream);
    }
}
