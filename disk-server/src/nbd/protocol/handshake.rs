//! "Handshake": flags, numbers and headers, from the connection to the first request.

use bitflags::bitflags;

use super::ProtocolError;
use super::wire::{Fields, codes};

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
