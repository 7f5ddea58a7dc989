//! Requests as commands on the wire, and their answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use disk_server::nbd::client::{Reply, Requests};
use disk_server::nbd::protocol::{ErrorCode, TransmissionFlags};

use super::super::order::{Effect, Ticket};
use super::super::pieces::{Piece, pieces};
use super::super::unflushed::Place;
use super::super::{DiskError, DiskOp, DiskRequest};
use super::Dispatcher;

/// A transfer's pieces are numbered in the low bits of their cookies.
const PIECE_BITS: u32 = 16;

/// What commands on the wire are for.
#[derive(Clone, Copy)]
enum Purpose {
    /// A request of the guest.
    Guest(Ticket),
    /// A change that is made again.
    Again(Place),
    /// A flush of the service's own.
    OwnFlush,
}

/// Commands on the wire that are answered together.
pub(super) struct Transfer {
    purpose: Purpose,
    request: Option<Arc<DiskRequest>>,
    pieces: Vec<Piece>,
    unanswered: usize,
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

impl Dispatcher {
    /// Sends what may go out.
    pub(super) fn send(&mut self) {
        let Some(mut line) = self.line.take() else {
            return;
        };
        match self.send_on(&mut line) {
            Ok(()) => self.line = Some(line),
            Err(error) => {
                drop(line);
                self.forget_line();
                self.lost(&anyhow::Error::new(error).context("the disk server takes nothing"));
            }
        }
    }

    fn send_on(&mut self, line: &mut Line) -> io::Result<()> {
        while let Some((place, request)) = self.unflushed.next_repeat() {
            self.transfer(line, Purpose::Again(place), request)?;
        }
        if !self.unflushed.is_repeating() {
            if self.unflushed.wants_flush() {
                self.flush(line, Purpose::OwnFlush)?;
            }
            let full = self.unflushed.is_full();
            while let Some(ticket) = self.order.next(|effect| !(full && effect.modifies())) {
                let Some(pending) = self.pending.get(&ticket) else {
                    continue;
                };
                let request = pending.request.clone();
                match request.op {
                    DiskOp::Flush => self.flush(line, Purpose::Guest(ticket))?,
                    DiskOp::Discard { .. }
                        if !line.flags.contains(TransmissionFlags::SEND_TRIM) =>
                    {
                        self.finish(ticket, Err(DiskError::Unsupported));
                    }
                    DiskOp::WriteZeroes { .. }
                        if !line.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) =>
                    {
                        self.finish(ticket, Err(DiskError::Unsupported));
                    }
                    _ => self.transfer(line, Purpose::Guest(ticket), request)?,
                }
            }
        }
        line.requests.flush_buffer()
    }

    fn number(&mut self) -> u64 {
        self.next_transfer += 1;
        self.next_transfer
    }

    fn flush(&mut self, line: &mut Line, purpose: Purpose) -> io::Result<()> {
        let number = self.number();
        self.unflushed.flush_sent(number);
        line.transfers.insert(
            number,
            Transfer {
                purpose,
                request: None,
                pieces: Vec::new(),
                unanswered: 1,
                data: Vec::new(),
                error: None,
            },
        );
        line.requests.flush(number << PIECE_BITS)
    }

    fn transfer(
        &mut self,
        line: &mut Line,
        purpose: Purpose,
        request: Arc<DiskRequest>,
    ) -> io::Result<()> {
        let number = self.number();
        let pieces = pieces(&request.op, line.max_payload);
        if pieces.len() > 1 << PIECE_BITS {
            log::error!(
                "{} takes at most {} bytes at a time: too few for request {}",
                self.link.target(),
                line.max_payload,
                request.id
            );
            self.answered(number, Transfer::failed(purpose, request));
            return Ok(());
        }
        let requests = &mut line.requests;
        for (n, piece) in pieces.iter().enumerate() {
            let cookie = number << PIECE_BITS | n as u64;
            match &request.op {
                DiskOp::Read { .. } => requests.read(cookie, piece.offset, piece.len),
                DiskOp::Write { data, .. } => {
                    requests.write(cookie, piece.offset, &data[piece.range()])
                }
                DiskOp::Discard { .. } => requests.trim(cookie, piece.offset, piece.len),
                DiskOp::WriteZeroes { unmap, .. } => {
                    requests.write_zeroes(cookie, piece.offset, piece.len, *unmap)
                }
                DiskOp::Flush => requests.flush(cookie),
            }?;
        }
        line.transfers.insert(
            number,
            Transfer {
                purpose,
                request: Some(request),
                unanswered: pieces.len(),
                pieces,
                data: Vec::new(),
                error: None,
            },
        );
        Ok(())
    }

    /// Takes an answer. `false` if the connection is of no use any more.
    pub(super) fn reply(&mut self, line: &mut Line, reply: Reply) -> bool {
        let number = reply.cookie >> PIECE_BITS;
        let Some(transfer) = line.transfers.get_mut(&number) else {
            return true; // of a transfer that failed with its first piece
        };
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
            return true;
        }
        let Some(transfer) = line.transfers.remove(&number) else {
            return true;
        };
        match transfer.error {
            Some(ErrorCode::Shutdown) => false,
            Some(ErrorCode::NotPermitted) => {
                self.refused();
                false
            }
            _ => {
                self.answered(number, transfer);
                true
            }
        }
    }

    /// The server does not let this connection write.
    fn refused(&mut self) {
        let target = self.link.target();
        if !std::mem::replace(&mut self.told_refused, true) {
            log::warn!(
                "the disk server does not let this connection write to {target} any more: another \
                 one took over, or the virtual machine that owns the export runs elsewhere"
            );
        }
        self.notify_refused(&format!("{target}: a change was not permitted"));
    }

    fn answered(&mut self, number: u64, transfer: Transfer) {
        let result = match transfer.error {
            None => Ok(transfer.data),
            Some(error) => Err(meaning(error)),
        };
        match transfer.purpose {
            Purpose::Again(place) => {
                if result.is_err() {
                    log::error!(
                        "the disk lost a change that it had taken, and does not take it again: the \
                         guest's next flush fails"
                    );
                    self.lost_change = true;
                }
                self.unflushed.repeated(place);
            }
            Purpose::OwnFlush => self.unflushed.flush_answered(number, result.is_ok()),
            Purpose::Guest(ticket) => {
                match &transfer.request {
                    None => self.unflushed.flush_answered(number, result.is_ok()),
                    Some(request) if Effect::of(&request.op).modifies() && result.is_ok() => {
                        self.told_refused = false;
                        self.unflushed.answered(request.clone());
                    }
                    Some(_) => {}
                }
                let flush = transfer.request.is_none();
                if flush && result.is_ok() && std::mem::take(&mut self.lost_change) {
                    self.finish(ticket, Err(DiskError::Io));
                } else {
                    self.finish(ticket, result);
                }
            }
        }
    }
}

impl Transfer {
    fn failed(purpose: Purpose, request: Arc<DiskRequest>) -> Self {
        Self {
            purpose,
            request: Some(request),
            pieces: Vec::new(),
            unanswered: 0,
            data: Vec::new(),
            error: Some(ErrorCode::Overflow),
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

/// What an error of the protocol is to the guest.
fn meaning(error: ErrorCode) -> DiskError {
    match error {
        ErrorCode::Invalid | ErrorCode::NotSupported => DiskError::Unsupported,
        _ => DiskError::Io,
    }
}
