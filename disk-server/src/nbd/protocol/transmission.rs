//! "Transmission": flags, numbers and headers of requests and replies.

use bitflags::bitflags;

use super::ProtocolError;
use super::wire::{Fields, codes};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

bitflags! {
    /// "Command flags".
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Forced unit access: answer when what was written is on stable storage.
        const FUA = 1 << 0;
        /// [`Command::WriteZeroes`] keeps the range allocated.
        const NO_HOLE = 1 << 1;
        /// [`Command::Read`] is answered in one piece.
        const DF = 1 << 2;
        /// [`Command::BlockStatus`] is answered with one extent.
        const REQ_ONE = 1 << 3;
        /// [`Command::WriteZeroes`] fails where it is not faster than a write.
        const FAST_ZERO = 1 << 4;
    }

    /// "Structured reply flags".
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// The last chunk of the reply.
        const DONE = 1 << 0;
    }

    /// Status flags of an extent in [`BASE_ALLOCATION`](super::BASE_ALLOCATION).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ExtentFlags: u32 {
        /// It takes no space.
        const HOLE = 1 << 0;
        /// It reads as zeroes.
        const ZERO = 1 << 1;
    }
}

codes! {
    /// "Request types".
    Command: u16 {
        /// Read data.
        Read = 0,
        /// Write the data that follows.
        Write = 1,
        /// Answer all that is under way, and end the connection.
        Disconnect = 2,
        /// Bring every answered write to stable storage.
        Flush = 3,
        /// The range is not needed any more.
        Trim = 4,
        /// The range will be read soon.
        Cache = 5,
        /// Write zeroes, of which none are sent.
        WriteZeroes = 6,
        /// Tell what is allocated.
        BlockStatus = 7,
    }
}

codes! {
    /// "Structured reply types".
    ChunkType: u16 {
        /// Nothing more: the reply is complete.
        None = 0,
        /// Data that was read, behind its offset of 64 bits.
        OffsetData = 1,
        /// Zeroes that were read: a [`HoleChunk`](super::HoleChunk).
        OffsetHole = 2,
        /// A [`StatusChunk`](super::StatusChunk).
        BlockStatus = 5,
        /// An [`ErrorChunk`](super::ErrorChunk) without an offset.
        Error = CHUNK_ERROR + 1,
        /// An [`ErrorChunk`](super::ErrorChunk) with an offset.
        ErrorOffset = CHUNK_ERROR + 2,
    }
}

const CHUNK_ERROR: u16 = 1 << 15;

impl ChunkType {
    /// Whether it is an error, also one without a name here. All begin like an [`ErrorChunk`](super::ErrorChunk).
    #[must_use]
    pub fn is_error(self) -> bool {
        u16::from(self) & CHUNK_ERROR != 0
    }
}

codes! {
    /// "Error values".
    ErrorCode: u32 {
        /// `NBD_EPERM`: this connection may not write, or may not write any more.
        NotPermitted = 1,
        /// `NBD_EIO`: the storage failed.
        Io = 5,
        /// `NBD_ENOMEM`
        NoMemory = 12,
        /// `NBD_EINVAL`: the request makes no sense.
        Invalid = 22,
        /// `NBD_ENOSPC`: the storage is full, or the write goes beyond the end.
        NoSpace = 28,
        /// `NBD_EOVERFLOW`: the request asks for more than fits.
        Overflow = 75,
        /// `NBD_ENOTSUP`: there is no fast way.
        NotSupported = 95,
        /// `NBD_ESHUTDOWN`: the server is ending.
        Shutdown = 108,
    }
}

fn magic(what: &'static str, expected: u32, found: u32) -> Result<(), ProtocolError> {
    if found == expected {
        Ok(())
    } else {
        let found = u64::from(found);
        Err(ProtocolError::Magic { what, found })
    }
}

/// "Request message". 28 bytes, behind which a write has its data:
///
/// ```text
///     4  0x25609513
///     2  command flags
///     2  command
///     8  cookie
///     8  offset
///     4  length
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Unknown flags are kept.
    pub flags: CommandFlags,
    /// What is to be done.
    pub command: Command,
    /// Stands for the request in its reply; the client's choice.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Its size in bytes.
    pub const LEN: usize = 28;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::from(self.command).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<RequestHeader, ProtocolError> {
        let mut fields = Fields::new("a request", bytes);
        magic("a request", REQUEST_MAGIC, fields.u32()?)?;
        Ok(RequestHeader {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: fields.u16()?.into(),
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }
}

/// "Simple reply message". 16 bytes, behind which a successful read has its data where structured
/// replies were not agreed on:
///
/// ```text
///     4  0x67446698
///     4  error, or 0
///     8  cookie
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// Why the request failed, if it did.
    pub error: Option<ErrorCode>,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Its size in bytes.
    pub const LEN: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.error.map_or(0, u32::from).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }
}

/// "Structured reply chunk message": what comes before a chunk's payload. 20 bytes:
///
/// ```text
///     4  0x668e33ef
///     2  chunk flags
///     2  chunk type
///     8  cookie
///     4  length of the payload
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Unknown flags are kept.
    pub flags: ChunkFlags,
    /// What the payload is.
    pub kind: ChunkType,
    /// The request's.
    pub cookie: u64,
    /// Of the payload, in bytes.
    pub length: u32,
}

impl ChunkHeader {
    /// Its size in bytes.
    pub const LEN: usize = 20;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::from(self.kind).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The head of either kind of reply.
///
/// A reader takes [`ReplyHeader::PREFIX`] bytes, of which the first four tell the kind, and then
/// [`ReplyHeader::rest`] more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply.
    Simple(SimpleReply),
    /// A chunk of a structured reply.
    Chunk(ChunkHeader),
}

impl ReplyHeader {
    /// How many bytes every reply has at least.
    pub const PREFIX: usize = SimpleReply::LEN;

    /// How many bytes of the header follow its prefix: 0 or 4.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`].
    pub fn rest(prefix: &[u8; Self::PREFIX]) -> Result<usize, ProtocolError> {
        match Fields::new("a reply", prefix).u32()? {
            SIMPLE_REPLY_MAGIC => Ok(0),
            CHUNK_MAGIC => Ok(ChunkHeader::LEN - Self::PREFIX),
            found => Err(ProtocolError::Magic {
                what: "a reply",
                found: found.into(),
            }),
        }
    }

    /// From the prefix and the rest, together.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`], and where the length is not that of its kind.
    pub fn decode(bytes: &[u8]) -> Result<ReplyHeader, ProtocolError> {
        let mut fields = Fields::new("a reply", bytes);
        let header = match fields.u32()? {
            SIMPLE_REPLY_MAGIC => ReplyHeader::Simple(SimpleReply {
                error: match fields.u32()? {
                    0 => None,
                    error => Some(error.into()),
                },
                cookie: fields.u64()?,
            }),
            CHUNK_MAGIC => ReplyHeader::Chunk(ChunkHeader {
                flags: ChunkFlags::from_bits_retain(fields.u16()?),
                kind: fields.u16()?.into(),
                cookie: fields.u64()?,
                length: fields.u32()?,
            }),
            found => {
                return Err(ProtocolError::Magic {
                    what: "a reply",
                    found: found.into(),
                });
            }
        };
        fields.end()?;
        Ok(header)
    }
}
