//! "Option types" and "Option reply types": the data of options and of the replies to them.

use super::handshake::{InfoType, TransmissionFlags};
use super::wire::{Fields, cut, put_counted_string};
use super::{DEFAULT_MAX_PAYLOAD, ProtocolError};

/// Size and abilities of an export: the answer to `EXPORT_NAME` (10 bytes), and the payload of
/// [`Info::Export`].
///
/// ```text
///     8  size in bytes
///     2  transmission flags
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// In bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
}

impl ExportInfo {
    /// Its size in bytes.
    pub const LEN: usize = 10;
    /// How many zeroes follow it in the answer to `EXPORT_NAME`, unless both sides agreed on
    /// `NO_ZEROES`.
    pub const ZEROES: usize = 124;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes
    }

    /// From bytes. Unknown flags are kept.
    ///
    /// # Errors
    /// None for ten bytes; the type is that of its neighbours.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<ExportInfo, ProtocolError> {
        ExportInfo::take(&mut Fields::new("information of an export", bytes))
    }

    fn take(fields: &mut Fields<'_>) -> Result<ExportInfo, ProtocolError> {
        Ok(ExportInfo {
            size: fields.u64()?,
            flags: TransmissionFlags::from_bits_retain(fields.u16()?),
        })
    }
}

/// "Size constraints", all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    /// Offsets and lengths are multiples of it: a power of two up to 65,536.
    pub minimum: u32,
    /// Multiples of it are fast: a power of two from 512.
    pub preferred: u32,
    /// The most data in one read or write.
    pub max_payload: u32,
}

impl Default for BlockSize {
    /// What holds where nothing was said.
    fn default() -> Self {
        BlockSize {
            minimum: 1,
            preferred: 4096,
            max_payload: DEFAULT_MAX_PAYLOAD,
        }
    }
}

/// The data of a [`ReplyType::Info`](super::ReplyType::Info).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size and abilities. Every successful `GO` brings it.
    Export(ExportInfo),
    /// The name of the export.
    Name(String),
    /// A description for people.
    Description(String),
    /// Block sizes.
    BlockSize(BlockSize),
    /// Of a type without a name here.
    Other(u16),
}

impl Info {
    /// As bytes. A type without a name has no payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let start = |kind: InfoType| u16::from(kind).to_be_bytes().to_vec();
        match self {
            Info::Export(info) => [&start(InfoType::Export)[..], &info.encode()].concat(),
            Info::Name(name) => [&start(InfoType::Name), cut(name).as_bytes()].concat(),
            Info::Description(text) => {
                [&start(InfoType::Description), cut(text).as_bytes()].concat()
            }
            Info::BlockSize(size) => [
                &start(InfoType::BlockSize)[..],
                &size.minimum.to_be_bytes(),
                &size.preferred.to_be_bytes(),
                &size.max_payload.to_be_bytes(),
            ]
            .concat(),
            Info::Other(kind) => kind.to_be_bytes().to_vec(),
        }
    }

    /// From the data of a reply.
    ///
    /// # Errors
    /// It has not the length that its type must have, its text is not UTF-8, or its block sizes
    /// break the rules of "Size constraints".
    pub fn decode(bytes: &[u8]) -> Result<Info, ProtocolError> {
        let mut fields = Fields::new("information of an export", bytes);
        let info = match InfoType::from(fields.u16()?) {
            InfoType::Export => Info::Export(ExportInfo::take(&mut fields)?),
            InfoType::Name => Info::Name(fields.last_string()?),
            InfoType::Description => Info::Description(fields.last_string()?),
            InfoType::BlockSize => {
                let size = BlockSize {
                    minimum: fields.u32()?,
                    preferred: fields.u32()?,
                    max_payload: fields.u32()?,
                };
                let sensible = size.minimum.is_power_of_two()
                    && size.minimum <= 1 << 16
                    && size.preferred.is_power_of_two()
                    && size.preferred >= size.minimum.max(512)
                    && size.max_payload >= size.preferred;
                if !sensible {
                    return Err(ProtocolError::Invalid {
                        what: "an export's block size",
                    });
                }
                Info::BlockSize(size)
            }
            InfoType::Other(kind) => return Ok(Info::Other(kind)),
        };
        fields.end()?;
        Ok(info)
    }
}

/// The data of the options `INFO` and `GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// The name asked for.
    pub name: String,
    /// What the client wants to know.
    pub infos: Vec<InfoType>,
}

impl ExportRequest {
    /// As bytes. At most 65,535 pieces of information can be asked for, more are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_counted_string(&mut bytes, &self.name);
        let count = u16::try_from(self.infos.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&count.to_be_bytes());
        for info in &self.infos[..usize::from(count)] {
            bytes.extend_from_slice(&u16::from(*info).to_be_bytes());
        }
        bytes
    }

    /// From an option's data.
    ///
    /// # Errors
    /// The lengths in it do not add up, or the name is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<ExportRequest, ProtocolError> {
        let mut fields = Fields::new("a request of an export", bytes);
        let name = fields.counted_string()?;
        let count = fields.u16()?;
        let mut infos = Vec::new();
        for _ in 0..count {
            infos.push(fields.u16()?.into());
        }
        fields.end()?;
        Ok(ExportRequest { name, infos })
    }
}

/// The data of a [`ReplyType::Server`](super::ReplyType::Server): one export of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

impl ListedExport {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_counted_string(&mut bytes, &self.name);
        bytes.extend_from_slice(cut(&self.description).as_bytes());
        bytes
    }

    /// From a reply's data.
    ///
    /// # Errors
    /// The name is longer than the data, or something is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<ListedExport, ProtocolError> {
        let mut fields = Fields::new("a listed export", bytes);
        Ok(ListedExport {
            name: fields.counted_string()?,
            description: fields.last_string()?,
        })
    }
}

/// The data of the options `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// The name of the export.
    pub export: String,
    /// What is asked for, each like [`BASE_ALLOCATION`](super::BASE_ALLOCATION).
    pub queries: Vec<String>,
}

impl MetaContextRequest {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_counted_string(&mut bytes, &self.export);
        bytes.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_counted_string(&mut bytes, query);
        }
        bytes
    }

    /// From an option's data.
    ///
    /// # Errors
    /// The lengths in it do not add up, or something is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<MetaContextRequest, ProtocolError> {
        let mut fields = Fields::new("a request of metadata contexts", bytes);
        let export = fields.counted_string()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.counted_string()?);
        }
        fields.end()?;
        Ok(MetaContextRequest { export, queries })
    }
}

/// The data of a [`ReplyType::MetaContext`](super::ReplyType::MetaContext).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// What stands for it in [`StatusChunk`](super::StatusChunk)s.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl MetaContext {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.id.to_be_bytes()[..], cut(&self.name).as_bytes()].concat()
    }

    /// From a reply's data.
    ///
    /// # Errors
    /// It is too short, or the name is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<MetaContext, ProtocolError> {
        let mut fields = Fields::new("a metadata context", bytes);
        Ok(MetaContext {
            id: fields.u32()?,
            name: fields.last_string()?,
        })
    }
}
