//! "Handshake": from the connection to the first request.

use bitflags::bitflags;

use super::wire::{Fields, codes, cut, put_counted_string};
use super::{DEFAULT_MAX_PAYLOAD, ProtocolError};

/// `NBDMAGIC`, the first bytes of every server.
const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, which makes it newstyle, and marks every option.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Marks every reply to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

bitflags! {
    /// "Handshake flags": what the server can do before an export is chosen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// `NBD_FLAG_FIXED_NEWSTYLE`: unknown options are answered with an error.
        const FIXED_NEWSTYLE = 1 << 0;
        /// `NBD_FLAG_NO_ZEROES`: the 124 zeroes behind the answer to `EXPORT_NAME` can be left out.
        const NO_ZEROES = 1 << 1;
    }

    /// "Client flags": the client's answer to [`HandshakeFlags`], of 32 bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// `NBD_FLAG_C_FIXED_NEWSTYLE`
        const FIXED_NEWSTYLE = 1 << 0;
        /// `NBD_FLAG_C_NO_ZEROES`
        const NO_ZEROES = 1 << 1;
    }

    /// "Transmission flags": what an export can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// It cannot be written.
        const READ_ONLY = 1 << 1;
        /// [`Command::Flush`](super::Command::Flush) is understood.
        const SEND_FLUSH = 1 << 2;
        /// [`CommandFlags::FUA`](super::CommandFlags::FUA) is understood.
        const SEND_FUA = 1 << 3;
        /// It is a rotating disk.
        const ROTATIONAL = 1 << 4;
        /// [`Command::Trim`](super::Command::Trim) is understood.
        const SEND_TRIM = 1 << 5;
        /// [`Command::WriteZeroes`](super::Command::WriteZeroes) is understood.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// [`CommandFlags::DF`](super::CommandFlags::DF) is understood.
        const SEND_DF = 1 << 7;
        /// All connections to the export see each other's writes, and a flush on one is a flush of
        /// them all.
        const CAN_MULTI_CONN = 1 << 8;
        /// `NBD_FLAG_SEND_RESIZE`, of an extension.
        const SEND_RESIZE = 1 << 9;
        /// [`Command::Cache`](super::Command::Cache) is understood.
        const SEND_CACHE = 1 << 10;
        /// [`CommandFlags::FAST_ZERO`](super::CommandFlags::FAST_ZERO) is understood.
        const SEND_FAST_ZERO = 1 << 11;
    }
}

codes! {
    /// "Option types": what a client asks for before the transmission.
    OptionType: u32 {
        /// Choose an export, without an answer if that fails.
        ExportName = 1,
        /// End the connection.
        Abort = 2,
        /// Name the exports.
        List = 3,
        /// Encrypt the connection.
        StartTls = 5,
        /// Tell of an export.
        Info = 6,
        /// Choose an export.
        Go = 7,
        /// Structured replies from here on.
        StructuredReply = 8,
        /// Name the metadata contexts.
        ListMetaContext = 9,
        /// Choose the metadata contexts.
        SetMetaContext = 10,
    }
}

codes! {
    /// "Option reply types": what a server answers to an option.
    ReplyType: u32 {
        /// Done.
        Ack = 1,
        /// One export of a list.
        Server = 2,
        /// One piece of information.
        Info = 3,
        /// One metadata context.
        MetaContext = 4,
        /// The option is unknown.
        ErrUnsupported = ERROR + 1,
        /// The server does not want to.
        ErrPolicy = ERROR + 2,
        /// The option makes no sense.
        ErrInvalid = ERROR + 3,
        /// The server cannot do it where it runs.
        ErrPlatform = ERROR + 4,
        /// Not without TLS.
        ErrTlsRequired = ERROR + 5,
        /// There is no such export.
        ErrUnknown = ERROR + 6,
        /// The server is ending.
        ErrShutdown = ERROR + 7,
        /// The client has to ask for block sizes.
        ErrBlockSizeRequired = ERROR + 8,
        /// The request or its answer is too large.
        ErrTooBig = ERROR + 9,
    }
}

const ERROR: u32 = 1 << 31;

impl ReplyType {
    /// Whether it is an error, also one without a name here. Its data is a text for people.
    #[must_use]
    pub fn is_error(self) -> bool {
        u32::from(self) & ERROR != 0
    }
}

codes! {
    /// What a piece of information is about (`NBD_REP_INFO`).
    InfoType: u16 {
        /// Size and flags.
        Export = 0,
        /// The name of the export.
        Name = 1,
        /// A description for people.
        Description = 2,
        /// Block sizes and the largest payload.
        BlockSize = 3,
    }
}

/// The server's first message. 18 bytes:
///
/// ```text
///     8  "NBDMAGIC"
///     8  "IHAVEOPT"
///     2  handshake flags
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// What the server can do.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Its size in bytes.
    pub const LEN: usize = 18;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..18].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes
    }

    /// From bytes. Unknown flags are kept.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`]: something else, or a server of the oldstyle protocol.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Greeting, ProtocolError> {
        let mut fields = Fields::new("a server's greeting", bytes);
        magic("a server's greeting", INIT_MAGIC, fields.u64()?)?;
        magic("a newstyle greeting", OPTION_MAGIC, fields.u64()?)?;
        let flags = HandshakeFlags::from_bits_retain(fields.u16()?);
        Ok(Greeting { flags })
    }
}

fn magic(what: &'static str, expected: u64, found: u64) -> Result<(), ProtocolError> {
    if found == expected {
        Ok(())
    } else {
        Err(ProtocolError::Magic { what, found })
    }
}

/// What comes before an option's data. 16 bytes:
///
/// ```text
///     8  "IHAVEOPT"
///     4  option
///     4  length of the data
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: OptionType,
    /// How many bytes of data follow.
    pub length: u32,
}

impl OptionHeader {
    /// Its size in bytes.
    pub const LEN: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::from(self.option).to_be_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<OptionHeader, ProtocolError> {
        let mut fields = Fields::new("an option", bytes);
        magic("an option", OPTION_MAGIC, fields.u64()?)?;
        Ok(OptionHeader {
            option: fields.u32()?.into(),
            length: fields.u32()?,
        })
    }
}

/// What comes before the data of a reply to an option. 20 bytes:
///
/// ```text
///     8  0x3e889045565a9
///     4  the option that it answers
///     4  reply type
///     4  length of the data
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that it answers.
    pub option: OptionType,
    /// What it says.
    pub reply: ReplyType,
    /// How many bytes of data follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Its size in bytes.
    pub const LEN: usize = 20;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::from(self.option).to_be_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.reply).to_be_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`ProtocolError::Magic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<OptionReplyHeader, ProtocolError> {
        let mut fields = Fields::new("a reply to an option", bytes);
        magic("a reply to an option", OPTION_REPLY_MAGIC, fields.u64()?)?;
        Ok(OptionReplyHeader {
            option: fields.u32()?.into(),
            reply: fields.u32()?.into(),
            length: fields.u32()?,
        })
    }
}

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

/// The data of a [`ReplyType::Info`].
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

/// The data of a [`ReplyType::Server`]: one export of a list.
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

/// The data of a [`ReplyType::MetaContext`].
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
