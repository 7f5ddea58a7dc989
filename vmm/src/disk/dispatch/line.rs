//! A connection, and what is under way on it.

use std::collections::BTreeMap;
use std::time::Instant;

use disk_server::nbd::client::{Export, Reply, Requests};
use disk_server::nbd::protocol::{ErrorCode, TransmissionFlags};

use super::super::pieces::Piece;

/// A transfer's pieces are numbered in the low bits of their cookies.
pub(super) const PIECE_BITS: u32 = 16;

/// A command on the wire, in pieces that are answered together.
pub(super) struct Transfer {
    /// The guest waits for it.
    waited_for: bool,
    pieces: Vec<Piece>,
    unanswered: usize,
    sent: Instant,
    data: Vec<u8>,
    error: Option<ErrorCode>,
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
    pub(super) fn new(generation: u64, requests: Requests, export: &Export) -> Self {
        Self {
            generation,
            requests,
            flags: export.flags,
            max_payload: export.blocks.max_payload,
            transfers: BTreeMap::new(),
        }
    }

    /// Takes an answer. Gives that of the whole command, when it has come.
    pub(super) fn reply(&mut self, reply: Reply) -> Option<(u64, Result<Vec<u8>, ErrorCode>)> {
        let number = reply.cookie >> PIECE_BITS;
        let transfer = self.transfers.get_mut(&number)?;
        transfer.unanswered -= 1;
        match reply.result {
            Err(error) => transfer.error = Some(transfer.error.unwrap_or(error)),
            Ok(data) if transfer.pieces.len() <= 1 => transfer.data = data,
            Ok(data) => {
                let piece = (reply.cookie & ((1 << PIECE_BITS) - 1)) as usize;
                transfer.put(piece, &data);
            }
        }
        if transfer.unanswered > 0 {
            return None;
        }
        let transfer = self.transfers.remove(&number)?;
        let result = transfer.error.map_or(Ok(transfer.data), Err);
        Some((number, result))
    }

    /// Since when the server has had what the guest has waited for longest.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        // In the order in which they were sent.
        let oldest = self.transfers.values().find(|it| it.waited_for)?;
        Some(oldest.sent)
    }
}

impl Transfer {
    pub(super) fn new(pieces: Vec<Piece>, waited_for: bool) -> Self {
        Self {
            waited_for,
            unanswered: pieces.len(),
            pieces,
            sent: Instant::now(),
            data: Vec::new(),
            error: None,
        }
    }

    /// Puts the data of one of several pieces into its place.
    fn put(&mut self, piece: usize, data: &[u8]) {
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
