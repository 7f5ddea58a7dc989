//! Requests as commands on the wire, and their answers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use disk_server::nbd::client::Reply;
use disk_server::nbd::protocol::{ErrorCode, TransmissionFlags};

use super::super::followed::DiskNotice;
use super::super::order::Effect;
use super::super::pieces::pieces;
use super::super::{DiskError, DiskOp, DiskRequest};
use super::Dispatcher;
use super::line::{Line, PIECE_BITS, Purpose, Transfer};
use super::own_flushes::OwnFlushes;

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
            if self.unflushed.is_full() && self.own_flush.failed >= OwnFlushes::GIVE_UP {
                self.give_up();
            }
            if self.unflushed.wants_flush() && self.own_flush.may_go_out() {
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
                sent: Instant::now(),
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
                sent: Instant::now(),
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
            Some(ErrorCode::NoSpace) if transfer.request.is_some() => self.no_space(&transfer),
            Some(_) if transfer.request.is_none() => {
                self.flush_failed(number, transfer.purpose);
                false
            }
            _ => {
                self.answered(number, transfer);
                true
            }
        }
    }

    /// There is no room for a change. `false` if the connection is of no use any more.
    fn no_space(&mut self, transfer: &Transfer) -> bool {
        self.news.is_full(&self.link.target(), self.timeout);
        match transfer.purpose {
            Purpose::Guest(ticket) => {
                self.order.pause(ticket);
                true
            }
            // The repetition begins anew, with the next connection.
            Purpose::Again(_) | Purpose::OwnFlush => false,
        }
    }

    /// A flush failed: what it was to cover may be lost at the server, where another flush may
    /// succeed without it. So all of that is made again, on another connection.
    fn flush_failed(&mut self, number: u64, purpose: Purpose) {
        self.unflushed.flush_answered(number, false);
        let target = self.link.target();
        match purpose {
            Purpose::Guest(ticket) => self.finish(ticket, Err(DiskError::Io)),
            Purpose::OwnFlush | Purpose::Again(_) => {
                let pause = self.own_flush.fail();
                log::error!(
                    "{target}: its server cannot flush what the guest wrote; it is tried again, but \
                     not within {} s",
                    pause.as_secs()
                );
            }
        }
    }

    /// No flush succeeds, and no more can be kept.
    fn give_up(&mut self) {
        log::error!(
            "{}: its server cannot flush what the guest wrote, and no more of it can be kept: the \
             guest's next flush fails",
            self.link.target()
        );
        if let Some(last) = self.unflushed.give_up() {
            self.log_notice(DiskNotice::GivenUp(last));
        }
    }

    /// The server does not let this connection write.
    fn refused(&mut self) {
        let target = self.link.target();
        self.news.is_refused(&target);
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
                    if let Some(others) = self.complaints.admit(Instant::now()) {
                        log::error!(
                            "{} lost a change that it had taken, and does not take it again: the \
                             guest's next flush fails{others}",
                            self.link.target()
                        );
                    }
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
            Purpose::Guest(ticket) => match transfer.request {
                None => {
                    self.own_flush = OwnFlushes::default();
                    self.unflushed.flush_answered(number, true);
                    let lost = self.unflushed.take_lost();
                    self.finish(ticket, if lost { Err(DiskError::Io) } else { result });
                }
                Some(request) => {
                    let changed = Effect::of(&request.op).modifies() && result.is_ok();
                    if changed {
                        self.news.writes();
                        self.unflushed.answered(request);
                    }
                    self.finish(ticket, result);
                    if changed && !self.order.has_paused() {
                        self.news.has_room(&self.link.target());
                    }
                }
            },
        }
    }
}

/// What an error of the protocol is to the guest.
fn meaning(error: ErrorCode) -> DiskError {
    match error {
        ErrorCode::Invalid | ErrorCode::NotSupported => DiskError::Unsupported,
        _ => DiskError::Io,
    }
}
