//! "Structured reply types": the payloads of the chunks that replies consist of.

use super::ProtocolError;
use super::transmission::{ChunkType, ErrorCode, ExtentFlags};
use super::wire::{Fields, cut};

/// The payload of [`ChunkType::OffsetHole`]. 12 bytes: offset of 64 bits, length of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoleChunk {
    /// Where the zeroes begin, from the start of the export, in bytes.
    pub offset: u64,
    /// How many there are; never 0.
    pub length: u32,
}

impl HoleChunk {
    /// Its size in bytes.
    pub const LEN: usize = 12;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From a chunk's payload.
    ///
    /// # Errors
    /// It has another length, or the hole is empty.
    pub fn decode(bytes: &[u8]) -> Result<HoleChunk, ProtocolError> {
        let mut fields = Fields::new("a hole in a reply", bytes);
        let hole = HoleChunk {
            offset: fields.u64()?,
            length: fields.u32()?,
        };
        fields.end()?;
        match hole.length {
            0 => Err(ProtocolError::Invalid {
                what: "an empty hole in a reply",
            }),
            _ => Ok(hole),
        }
    }
}

/// A range and its status, in a [`StatusChunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// In bytes; never 0.
    pub length: u32,
    /// What it is.
    pub flags: ExtentFlags,
}

/// The payload of [`ChunkType::BlockStatus`]: 4 bytes of context, then 8 bytes for each extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChunk {
    /// Which metadata context.
    pub context: u32,
    /// One behind the other, from the request's offset.
    pub extents: Vec<Extent>,
}

impl StatusChunk {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.context.to_be_bytes().to_vec();
        for extent in &self.extents {
            bytes.extend_from_slice(&extent.length.to_be_bytes());
            bytes.extend_from_slice(&extent.flags.bits().to_be_bytes());
        }
        bytes
    }

    /// From a chunk's payload.
    ///
    /// # Errors
    /// It has no extent, an empty one, or half of one.
    pub fn decode(bytes: &[u8]) -> Result<StatusChunk, ProtocolError> {
        let mut fields = Fields::new("a block status", bytes);
        let context = fields.u32()?;
        let mut extents = Vec::new();
        while extents.is_empty() || fields.left() > 0 {
            let extent = Extent {
                length: fields.u32()?,
                flags: ExtentFlags::from_bits_retain(fields.u32()?),
            };
            if extent.length == 0 {
                return Err(ProtocolError::Invalid {
                    what: "an empty extent of a block status",
                });
            }
            extents.push(extent);
        }
        Ok(StatusChunk { context, extents })
    }
}

/// The payload of error chunks: 4 bytes of code, 2 of length, the message, and 8 of offset in
/// [`ChunkType::ErrorOffset`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorChunk {
    /// What went wrong.
    pub code: ErrorCode,
    /// The same for people; may be empty.
    pub message: String,
    /// Where it went wrong, from the start of the export.
    pub offset: Option<u64>,
}

impl ErrorChunk {
    /// The type of the chunk that it belongs into.
    #[must_use]
    pub fn kind(&self) -> ChunkType {
        match self.offset {
            None => ChunkType::Error,
            Some(_) => ChunkType::ErrorOffset,
        }
    }

    /// As bytes. A message that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = cut(&self.message);
        let mut bytes = u32::from(self.code).to_be_bytes().to_vec();
        bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        bytes.extend_from_slice(message.as_bytes());
        if let Some(offset) = self.offset {
            bytes.extend_from_slice(&offset.to_be_bytes());
        }
        bytes
    }

    /// From the payload of a chunk of an error type, also of one without a name here.
    ///
    /// # Errors
    /// The lengths in it do not add up, the message is not UTF-8, or the code is 0.
    pub fn decode(kind: ChunkType, bytes: &[u8]) -> Result<ErrorChunk, ProtocolError> {
        let mut fields = Fields::new("an error in a reply", bytes);
        let code = fields.u32()?;
        if code == 0 {
            return Err(ProtocolError::Invalid {
                what: "an error in a reply that is none",
            });
        }
        let length = fields.u16()?;
        let message = fields.string(length.into())?;
        let offset = match kind {
            ChunkType::ErrorOffset => Some(fields.u64()?),
            _ => None,
        };
        if matches!(kind, ChunkType::Error | ChunkType::ErrorOffset) {
            fields.end()?;
        }
        Ok(ErrorChunk {
            code: code.into(),
            message,
            offset,
        })
    }
}
