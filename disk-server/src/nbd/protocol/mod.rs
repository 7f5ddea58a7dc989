//! The wire format of NBD, for clients and servers: constants, headers and payloads.
//!
//! Everything is big-endian ("Conventions"). Headers have fixed sizes and decode from arrays;
//! payloads decode from slices whose length the header told. Nothing here reads or writes a
//! socket, and no input makes it panic.
//!
//! ```text
//!     client                              server
//!       | <------------ Greeting (flags) --- |   "Newstyle negotiation"
//!       | -- ClientFlags ------------------> |
//!       | -- OptionHeader, data -----------> |   "Fixed newstyle negotiation": options,
//!       | <-------- OptionReplyHeader, data  |   one or more replies to each
//!       | -- Go ---------------------------> |
//!       | <----------------- Info, ..., Ack  |
//!       | -- RequestHeader, data ----------> |   "Transmission": requests pipelined,
//!       | <-- SimpleReply or chunks -------- |   replies in any order
//! ```

mod chunks;
mod handshake;
mod options;
mod transmission;
mod wire;

pub use chunks::{ErrorChunk, Extent, HoleChunk, StatusChunk};
pub use handshake::{
    ClientFlags, Greeting, HandshakeFlags, InfoType, OptionHeader, OptionReplyHeader, OptionType,
    ReplyType, TransmissionFlags,
};
pub use options::{
    BlockSize, ExportInfo, ExportRequest, Info, ListedExport, MetaContext, MetaContextRequest,
};
pub use transmission::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, ErrorCode, ExtentFlags, ReplyHeader,
    RequestHeader, SimpleReply,
};

/// The port that IANA gave to NBD ("Newstyle negotiation").
pub const DEFAULT_PORT: u16 = 10809;

/// The most bytes of a string ("Conventions").
pub const MAX_STRING: usize = 4096;

/// The payload in bytes that every server takes and every client may send, where nothing else was
/// agreed ("Size constraints").
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;

/// The one metadata context of the standard ("The `base:` metadata namespace").
pub const BASE_ALLOCATION: &str = "base:allocation";

/// What our own server lists for who asks for it: `x-ftvm:disk=NAME`, where NAME is what the disk
/// behind the export is called on whatever way the server is reached, and no other disk is. No
/// context that could be set.
pub const DISK_NAME: &str = "x-ftvm:disk";

/// What our own server lists in the same way: `x-ftvm:boot=NUMBER`, 16 lower-case hexadecimal digits
/// that were drawn when its process started. As long as it stays the same, the server has lost
/// nothing that it answered (as the write verifier of NFS: RFC 1813, section 3.3.7).
pub const BOOT_NUMBER: &str = "x-ftvm:boot";

/// Why bytes are not what they should be. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number that marks a message is another one.
    #[error(
        "expected {what}, found the magic number {found:#x}: the other side does not speak NBD, or the stream is out of step"
    )]
    Magic {
        /// What should be there.
        what: &'static str,
        /// What is there.
        found: u64,
    },
    /// The message is shorter than what it should hold.
    #[error("{what} ends too early")]
    Short {
        /// What should be there.
        what: &'static str,
    },
    /// The message is longer than what it holds.
    #[error("{what} is followed by {extra} bytes that belong to nothing")]
    Extra {
        /// What the message holds.
        what: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A string is not UTF-8.
    #[error("{what} is not UTF-8")]
    Utf8 {
        /// What the string is.
        what: &'static str,
    },
    /// A string or list is longer than may be.
    #[error("{what} is longer than allowed")]
    TooLong {
        /// What it is.
        what: &'static str,
    },
    /// A field has a value that makes no sense.
    #[error("{what} is not valid")]
    Invalid {
        /// The field.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests;
