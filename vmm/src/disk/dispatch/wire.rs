//! Commands on the wire.

use std::io;
use std::time::Instant;

use disk_server::nbd::protocol::{ErrorCode, TransmissionFlags};

use super::super::DiskOp;
use super::super::pieces::pieces;
use super::super::request::Told;
use super::super::scheduler::Command;
use super::Dispatcher;
use super::line::{Line, PIECE_BITS, Transfer};

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
                self.scheduler.disconnected();
                self.lost(&anyhow::Error::new(error).context("the disk server takes nothing"));
            }
        }
        self.perform();
    }

    fn send_on(&mut self, line: &mut Line) -> io::Result<()> {
        let now = Instant::now();
        while let Some((number, command)) = self.scheduler.command(now) {
            if let Some(error) = self.send_command(line, number, &command)? {
                self.scheduler.answered(number, Err(error), now);
            }
        }
        line.requests.flush_buffer()
    }

    /// Sends a command, unless it is one that this server does not do.
    fn send_command(
        &self,
        line: &mut Line,
        number: u64,
        command: &Command,
    ) -> io::Result<Option<ErrorCode>> {
        let op = command.op();
        let needed = match op {
            DiskOp::Discard { .. } => TransmissionFlags::SEND_TRIM,
            DiskOp::WriteZeroes { .. } => TransmissionFlags::SEND_WRITE_ZEROES,
            DiskOp::Read { .. } | DiskOp::Write { .. } | DiskOp::Flush => {
                TransmissionFlags::empty()
            }
        };
        if !line.flags.contains(needed) {
            return Ok(Some(ErrorCode::NotSupported));
        }
        let pieces = pieces(op, line.max_payload);
        if pieces.len() > 1 << PIECE_BITS {
            log::error!(
                "{} takes at most {} bytes at a time: too few for {}",
                self.link.target(),
                line.max_payload,
                Told(op)
            );
            return Ok(Some(ErrorCode::Overflow));
        }
        let requests = &mut line.requests;
        for (n, piece) in pieces.iter().enumerate() {
            let cookie = number << PIECE_BITS | n as u64;
            match op {
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
        let waited_for = !matches!(command, Command::OwnFlush);
        line.transfers
            .insert(number, Transfer::new(pieces, waited_for));
        Ok(None)
    }
}
