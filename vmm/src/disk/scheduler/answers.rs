//! What the server's answers mean.

use std::time::Instant;

use disk_server::nbd::protocol::ErrorCode;

use super::own_flushes::OwnFlushes;
use super::{Effect, Incident, OpenRequest, Purpose, Scheduler};
use crate::disk::followed::DiskNotice;
use crate::disk::order::Ticket;
use crate::disk::{DiskCompletion, DiskError};

impl Scheduler {
    /// The server has answered a command, or cannot be sent it: with what was read, or an error.
    pub fn answered(&mut self, number: u64, result: Result<Vec<u8>, ErrorCode>, now: Instant) {
        let Some(purpose) = self.out.remove(&number) else {
            return; // of a connection that is gone
        };
        match result {
            Err(ErrorCode::Shutdown) => self.disconnect(),
            Err(ErrorCode::NotPermitted) => {
                self.tell(Incident::Refused);
                self.disconnect();
            }
            Err(_) if self.unflushed.is_flush(number) => self.flush_failed(number, purpose, now),
            Err(ErrorCode::NoSpace) => self.no_space(purpose),
            result => self.done(number, purpose, result),
        }
    }

    /// There is no room for a change.
    fn no_space(&mut self, purpose: Purpose) {
        self.tell(Incident::Full);
        match purpose {
            Purpose::Guest(ticket) => self.order.pause(ticket),
            // The repetition begins anew, with the next connection.
            Purpose::Again(_) | Purpose::OwnFlush => self.disconnect(),
        }
    }

    /// A flush failed: what it was to cover may be lost at the server, where another flush may
    /// succeed without it. So all of that is made again, on another connection.
    fn flush_failed(&mut self, number: u64, purpose: Purpose, now: Instant) {
        self.unflushed.flush_answered(number, false);
        match purpose {
            Purpose::Guest(ticket) => self.finish(ticket, Err(DiskError::Io)),
            Purpose::OwnFlush | Purpose::Again(_) => {
                let pause = self.own_flush.fail(now);
                self.tell(Incident::CannotFlush(pause));
            }
        }
        self.disconnect();
    }

    /// No flush succeeds, and no more can be kept.
    pub(super) fn give_up(&mut self) {
        self.tell(Incident::GivesUp);
        if let Some(last) = self.unflushed.give_up() {
            self.log_notice(DiskNotice::GivenUp(last));
        }
    }

    fn done(&mut self, number: u64, purpose: Purpose, result: Result<Vec<u8>, ErrorCode>) {
        let result = result.map_err(meaning);
        match purpose {
            Purpose::Again(place) => {
                if result.is_err() {
                    self.tell(Incident::LostChange);
                    self.unflushed.lose();
                }
                self.unflushed.repeated(place);
            }
            Purpose::OwnFlush => {
                self.own_flush = OwnFlushes::default();
                if let Some(last) = self.unflushed.flush_answered(number, true) {
                    self.log_notice(DiskNotice::Stable(last));
                }
            }
            Purpose::Guest(ticket) if self.unflushed.is_flush(number) => {
                self.own_flush = OwnFlushes::default();
                self.unflushed.flush_answered(number, true);
                let lost = self.unflushed.take_lost();
                self.finish(ticket, if lost { Err(DiskError::Io) } else { result });
            }
            Purpose::Guest(ticket) => {
                let pending = self.pending.get(&ticket);
                let changed = pending
                    .map(|pending| pending.request.clone())
                    .filter(|request| request.op.modifies() && result.is_ok());
                let has_changed = changed.is_some();
                if let Some(request) = changed {
                    self.tell(Incident::Writes);
                    self.unflushed.answered(request);
                }
                self.finish(ticket, result);
                if has_changed && !self.order.has_paused() {
                    self.tell(Incident::HasRoom);
                }
            }
        }
    }

    /// Gives the guest its completion.
    pub(super) fn finish(&mut self, ticket: Ticket, result: Result<Vec<u8>, DiskError>) {
        let Some(OpenRequest { request, .. }) = self.pending.remove(&ticket) else {
            return;
        };
        // Before the guest can see it: its log entry may come at once.
        self.order.answered(ticket);
        let id = request.id;
        if result.is_err() {
            // The error is in the log: the backup reads nothing.
            self.order.let_go_of(ticket);
        }
        let held = self.order.holds(ticket);
        if held {
            self.tickets.insert(id, ticket);
        }
        let completion = DiskCompletion { id, result, held };
        self.effects
            .push_back(Effect::Complete(completion, Some(request)));
    }
}

/// What an error of the protocol is to the guest.
fn meaning(error: ErrorCode) -> DiskError {
    match error {
        ErrorCode::Invalid | ErrorCode::NotSupported => DiskError::Unsupported,
        _ => DiskError::Io,
    }
}
