//! What can go wrong with a spool.

use std::io;
use std::path::PathBuf;

use crate::codec::DecodeError;

/// Why what a cold backup keeps cannot be kept, or read back.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory cannot be used.
    #[error("cannot use {path} for what a cold backup keeps: give a directory that can be written")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{path} is in use by another cold backup: give each a directory of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error(
        "cannot write {path}: a cold backup needs room for twice the guest's memory, and for its log"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Guest memory that came is not what was sent.
    #[error("guest memory that came cannot be used: {reason}")]
    Memory {
        /// Why.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path} at byte {offset}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file has something else than what was written.
    #[error("{path} is damaged at byte {offset}: look after that disk")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How.
        #[source]
        source: DecodeError,
    },
}
