//! What is wrong with an entry that cannot be written or read.

use super::kind::Kind;
use super::limits::{MAX_FRAME, MAX_HASHES, MAX_PAGE_DIGESTS, MAX_PART_DIGESTS, MAX_STATE_PART};
use crate::bytes::FieldError;

/// Why an entry cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A frame, console input or data of the disk beyond [`MAX_FRAME`].
    #[error(
        "{kind} of {len} bytes: an entry carries at most {MAX_FRAME}; split it or lower the MTU"
    )]
    TooLong {
        /// What it is.
        kind: Kind,
        /// Its length.
        len: usize,
    },
    /// More than [`MAX_HASHES`] hashes.
    #[error("{count} page hashes in one entry: it carries at most {MAX_HASHES}; split them")]
    TooManyHashes {
        /// How many.
        count: usize,
    },
    /// More than [`MAX_PAGE_DIGESTS`] pages or [`MAX_PART_DIGESTS`] parts.
    #[error(
        "a digest of {pages} pages and {parts} parts in one entry: it carries at most \
         {MAX_PAGE_DIGESTS} and {MAX_PART_DIGESTS}; split it"
    )]
    LargeDigest {
        /// How many pages.
        pages: usize,
        /// How many parts.
        parts: usize,
    },
    /// The pages of a digest do not ascend, or are not among those that it covers.
    #[error("the pages of a digest must ascend, within what it covers")]
    UnorderedPages,
    /// The entry lies before the one that precedes it in the log.
    #[error("entry at exit {found} after one at exit {last}: a log is written in execution order")]
    ExitsDecreased {
        /// `exits` of the last entry.
        last: u64,
        /// `exits` of this one.
        found: u64,
    },
    /// The batch has no room: take it before the next entry.
    #[error("the batch is full: take it before the next entry is added")]
    BatchFull,
}

/// Why an entry cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes end early, or a number is too large.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A kind that this version does not know.
    #[error("unknown kind {0}")]
    UnknownKind(u8),
    /// The reserved step code.
    #[error("reserved step code in tag {0:#04x}")]
    ReservedStep(u8),
    /// The number of exits passes 64 bits.
    #[error("the number of exits does not fit 64 bits")]
    ExitsOverflow,
    /// A frame, console input or data of the disk beyond [`MAX_FRAME`].
    #[error("{0} bytes of data: at most {MAX_FRAME} are allowed")]
    TooLong(u64),
    /// More than [`MAX_HASHES`] hashes.
    #[error("{0} page hashes: at most {MAX_HASHES} are allowed")]
    TooManyHashes(u64),
    /// A part of a state transfer beyond [`MAX_STATE_PART`].
    #[error("{0} bytes of state: at most {MAX_STATE_PART} are allowed in one part")]
    StateTooLong(u64),
    /// A part of a state transfer or digest that this version does not know.
    #[error("unknown part {0} of a state transfer or digest")]
    UnknownPart(u8),
    /// More digests than [`MAX_PAGE_DIGESTS`] or [`MAX_PART_DIGESTS`].
    #[error("{0} digests in one entry")]
    TooManyDigests(u64),
    /// The pages of a digest do not ascend, or are not among those that it covers.
    #[error("the pages of a digest do not ascend, or are not among those that it covers")]
    UnorderedPages,
    /// An output channel that this version does not know.
    #[error("unknown output channel {0}")]
    UnknownChannel(u8),
    /// A length of output beyond 32 bits.
    #[error("output of {0} bytes")]
    OutputTooLong(u64),
    /// A shutdown reason that this version does not know.
    #[error("unknown shutdown reason {0}")]
    UnknownReason(u8),
    /// A disk request's outcome that this version does not know.
    #[error("unknown outcome {0} of a request to the disk")]
    UnknownOutcome(u8),
    /// A register number beyond the last.
    #[error("register bitmap {0:#x} names registers that do not exist")]
    UnknownRegister(u64),
}
