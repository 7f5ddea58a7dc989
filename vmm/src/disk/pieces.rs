//! A request as commands of the protocol: one, or several where it is longer than a command may be.

use std::ops::Range;

use super::DiskOp;

/// Longest discard in one command. The protocol's lengths have 32 bits; half of that is a multiple
/// of every block size.
const LONGEST_DISCARD: u64 = 1 << 31;

/// Longest read in one command. The disk server answers a guest's reads in one chunk each, and of more
/// than that it could not say that the disk fails at the end.
const LONGEST_READ: u64 = 2 << 20;

/// A part of a request that fits into one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Offset on the disk, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
    /// Where it begins in the request.
    pub at: u64,
}

impl Piece {
    /// Its bytes in the request's data.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let at = self.at as usize;
        at..at + self.len as usize
    }
}

/// The parts of a request, with at most `max_payload` bytes of data in each. A flush is one
/// without a length.
#[must_use]
pub fn pieces(op: &DiskOp, max_payload: u32) -> Vec<Piece> {
    let (offset, len, longest) = match op {
        DiskOp::Read { offset, len } => (
            *offset,
            u64::from(*len),
            u64::from(max_payload).min(LONGEST_READ),
        ),
        DiskOp::Write { offset, data } => (*offset, data.len() as u64, u64::from(max_payload)),
        DiskOp::Flush => (0, 0, 1),
        DiskOp::Discard { offset, len } | DiskOp::WriteZeroes { offset, len, .. } => {
            (*offset, *len, LONGEST_DISCARD)
        }
    };
    let longest = longest.max(1);
    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let part = (len - at).min(longest);
        pieces.push(Piece {
            offset: offset.saturating_add(at),
            len: part as u32,
            at,
        });
        at += part;
        if at >= len {
            return pieces;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_requests_are_cut_without_gaps() {
        let op = DiskOp::Write {
            offset: 1000,
            data: vec![0; 2500],
        };
        let cut = pieces(&op, 1024);
        let spans: Vec<_> = cut.iter().map(|p| (p.offset, p.len, p.at)).collect();
        assert_eq!(
            spans,
            [(1000, 1024, 0), (2024, 1024, 1024), (3048, 452, 2048)]
        );
        assert_eq!(cut[2].range(), 2048..2500);
    }

    #[test]
    fn long_reads_are_answered_in_chunks_that_can_fail() {
        let read = DiskOp::Read {
            offset: 0,
            len: 5 << 20,
        };
        let cut = pieces(&read, 32 << 20);
        let lengths: Vec<u32> = cut.iter().map(|p| p.len).collect();
        assert_eq!(lengths, [2 << 20, 2 << 20, 1 << 20]);
    }

    #[test]
    fn a_discard_of_a_whole_disk_fits_into_commands() {
        let len = 5 << 30;
        let cut = pieces(&DiskOp::Discard { offset: 0, len }, 1024);
        assert_eq!(cut.iter().map(|p| u64::from(p.len)).sum::<u64>(), len);
        assert_eq!(cut.len(), 3);
    }

    #[test]
    fn short_requests_and_flushes_are_one_piece() {
        let read = DiskOp::Read {
            offset: 512,
            len: 1024,
        };
        assert_eq!(pieces(&read, 1024).len(), 1);
        assert_eq!(pieces(&DiskOp::Flush, 1024).len(), 1);
    }
}
