//! A connection, and what is under way on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use disk_server::nbd::client::Requests;
use disk_server::nbd::protocol::{ErrorCode, TransmissionFlags};

use super::super::DiskRequest;
use super::super::order::Ticket;
use super::super::pieces::Piece;
use super::super::unflushed::AnswerNumber;

/// A transfer's pieces are numbered in the low bits of their cookies.
pub(super) const PIECE_BITS: u32 = 16;

/// What commands on the wire are for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// A request of the guest.
    Guest(Ticket),
    /// A change that is made again.
    Again(AnswerNumber),
    /// A flush of the service's own.
    OwnFlush,
}

/// Commands on the wire that are answered together.
pub(super) struct Transfer {
    pub(super) purpose: Purpose,
    pub(super) request: Option<Arc<DiskRequest>>,
    pub(super) pieces: Vec<Piece>,
    pub(super) unanswered: usize,
    pub(super) sent: Instant,
    pub(super) data: Vec<u8>,
    pub(super) error: Option<ErrorCode>,
}

/// A connection.
pub(super) struct Line {
    pub(super) generation: u64,
    pub(super) requests: Requests,
    pub(super) flags: TransmissionFlags,
    pub(super) max_payload: u32,
    pub(super) transfers: BTreeMap<u64, Transfer>,
}

impl Line {
    /// Since when the server has had what the guest has waited for longest.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let waits = |transfer: &&Transfer| !matches!(transfer.purpose, Purpose::OwnFlush);
        // In the order in which they were sent.
        let oldest = self.transfers.values().find(waits)?;
        Some(oldest.sent)
    }
}

impl Transfer {
    pub(super) fn failed(purpose: Purpose, request: Arc<DiskRequest>) -> Self {
        Self {
            purpose,
            request: Some(request),
            pieces: Vec::new(),
            unanswered: 0,
            sent: Instant::now(),
            data: Vec::new(),
            error: Some(ErrorCode::Overflow),
        }
    }

    /// Puts the data of one of several pieces into its place.
    pub(super) fn put(&mut self, piece: usize, data: &[u8]) {
        let Some(piece) = self.pieces.get(piece) else {
            return;
        };
        if data.is_empty() {
            return;
        }
        let whole = self.pieces.iter().map(|p| p.len as usize).sum();
        self.data.resize(whole, 0);
        self.data[piece.range()].copy_from_slice(data);
    }
}
