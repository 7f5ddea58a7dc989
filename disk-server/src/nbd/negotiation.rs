//! The server's side of "Fixed newstyle negotiation": options, until an export is chosen.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::names::{ExportNameError, RequestedExport};
use super::protocol::{
    BASE_ALLOCATION, BOOT_NUMBER, BlockSize, ClientFlags, DISK_NAME, ExportInfo, ExportRequest,
    Greeting, HandshakeFlags, Info, InfoType, ListedExport, MetaContext, MetaContextRequest,
    OptionHeader, OptionReplyHeader, OptionType, ProtocolError, ReplyType, TransmissionFlags,
};
use super::timed::{Incoming, Outgoing};
use crate::export::{Access, Exports, OpenExportError};
use crate::fence::{Refusal, WaitLimit};
use crate::logging::excerpt;

/// The most data of an option: names, and some queries. Larger ones are passed over.
const MAX_OPTION: u32 = 64 << 10;

/// What stands for [`BASE_ALLOCATION`] on our connections.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

/// What a client and the server agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    /// What the client asked for.
    pub(super) name: RequestedExport,
    pub(super) access: Access,
    pub(super) structured: bool,
    /// Whether the client may ask for the status of blocks.
    pub(super) block_status: bool,
}

/// Why a negotiation came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum NegotiationError {
    #[error("the client left without choosing an export")]
    Left,
    #[error("the connection failed in the negotiation")]
    Io(#[from] io::Error),
    #[error("the client does not speak the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the client set flags that do not exist: {0:#x}")]
    Flags(u32),
    #[error("the client asked for {0} in the old way, which has no answer for errors")]
    Refused(String),
}

/// Why an option is refused.
struct OptionError {
    reply: ReplyType,
    message: String,
}

impl OptionError {
    fn new(reply: ReplyType, message: impl Into<String>) -> OptionError {
        let message = message.into();
        OptionError { reply, message }
    }
}

impl From<ProtocolError> for OptionError {
    fn from(error: ProtocolError) -> Self {
        OptionError::new(ReplyType::ErrInvalid, error.to_string())
    }
}

impl From<ExportNameError> for OptionError {
    fn from(error: ExportNameError) -> Self {
        OptionError::new(ReplyType::ErrUnknown, error.to_string())
    }
}

impl From<OpenExportError> for OptionError {
    fn from(error: OpenExportError) -> Self {
        let reply = match error {
            OpenExportError::Unknown(_) => ReplyType::ErrUnknown,
            // The one error that means "later".
            OpenExportError::Refused(Refusal::NotYet(_)) | OpenExportError::Hangs(_) => {
                ReplyType::ErrShutdown
            }
            OpenExportError::NotTheOwner { .. }
            | OpenExportError::ReadOnly(_)
            | OpenExportError::Refused(_) => ReplyType::ErrPolicy,
        };
        OptionError::new(reply, error.to_string())
    }
}

/// Lets a client choose an export.
pub(super) fn negotiate(
    incoming: &mut Incoming<'_>,
    outgoing: &Outgoing<'_>,
    exports: &Exports,
    limit: WaitLimit<'_>,
    deadline: Instant,
    ending: &AtomicBool,
) -> Result<Agreed, NegotiationError> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    outgoing.send(&Greeting { flags }.encode())?;
    let flags = u32::from_be_bytes(incoming.read_array(deadline)?);
    let flags = ClientFlags::from_bits(flags).ok_or(NegotiationError::Flags(flags))?;
    let mut negotiation = Negotiation {
        outgoing,
        exports,
        limit,
        structured: false,
        context_of: None,
    };
    loop {
        let header = OptionHeader::decode(&incoming.read_array(deadline)?)?;
        let mut data = Vec::new();
        if header.length > MAX_OPTION {
            incoming.skip(header.length.into(), deadline)?;
            let error = OptionError::new(ReplyType::ErrTooBig, "the option has too much data");
            negotiation.refuse(header.option, &error)?;
            continue;
        }
        data.resize(header.length as usize, 0);
        incoming.read_exact(&mut data, deadline)?;
        let ends = ending.load(Ordering::Relaxed);
        match header.option {
            OptionType::ExportName if !ends => {
                let zeroes = !flags.contains(ClientFlags::NO_ZEROES);
                return negotiation.export_name(&data, zeroes);
            }
            OptionType::Abort => {
                // Clients need not wait for it.
                let _ = negotiation.reply(header.option, ReplyType::Ack, &[]);
                return Err(NegotiationError::Left);
            }
            option if ends => {
                let error = OptionError::new(ReplyType::ErrShutdown, "the server is ending");
                negotiation.refuse(option, &error)?;
            }
            option => match negotiation.answer(option, &data)? {
                Ok(None) => negotiation.reply(option, ReplyType::Ack, &[])?,
                Ok(Some(access)) => {
                    negotiation.reply(option, ReplyType::Ack, &[])?;
                    return Ok(access);
                }
                Err(error) => negotiation.refuse(option, &error)?,
            },
        }
    }
}

struct Negotiation<'a> {
    outgoing: &'a Outgoing<'a>,
    exports: &'a Exports,
    /// For writes of others.
    limit: WaitLimit<'a>,
    structured: bool,
    /// The export of which the block status was agreed on, as the client called it.
    context_of: Option<String>,
}

/// What an option leads to: nothing yet, or the transmission.
type Answered = Result<Option<Agreed>, OptionError>;

impl Negotiation<'_> {
    /// Answers an option but for the last reply to it.
    fn answer(&mut self, option: OptionType, data: &[u8]) -> io::Result<Answered> {
        match option {
            OptionType::List => self.list(data),
            OptionType::Info => self.export(option, data).map(|r| r.map(|_| None)),
            OptionType::Go => self.export(option, data).map(|r| r.map(Some)),
            OptionType::StructuredReply if data.is_empty() => {
                self.structured = true;
                Ok(Ok(None))
            }
            OptionType::StructuredReply => Ok(Err(no_data())),
            OptionType::ListMetaContext | OptionType::SetMetaContext => {
                self.meta_context(option, data)
            }
            OptionType::StartTls => Ok(Err(OptionError::new(
                ReplyType::ErrUnsupported,
                "this server has no TLS",
            ))),
            _ => Ok(Err(OptionError::new(
                ReplyType::ErrUnsupported,
                "this server does not know the option",
            ))),
        }
    }

    fn list(&self, data: &[u8]) -> io::Result<Answered> {
        if !data.is_empty() {
            return Ok(Err(no_data()));
        }
        for (name, export) in self.exports.iter() {
            let listed = ListedExport {
                name: name.to_string(),
                description: export.description(),
            };
            self.reply(OptionType::List, ReplyType::Server, &listed.encode())?;
        }
        Ok(Ok(None))
    }

    /// `INFO` and `GO`
    fn export(&self, option: OptionType, data: &[u8]) -> io::Result<Result<Agreed, OptionError>> {
        let opened = ExportRequest::decode(data)
            .map_err(OptionError::from)
            .and_then(|request| Ok((self.open(&request.name, option)?, request)));
        let (agreed, request) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let info = |info: Info| self.reply(option, ReplyType::Info, &info.encode());
        info(Info::Export(self.export_info(&agreed)))?;
        if request.infos.contains(&InfoType::Name) {
            info(Info::Name(agreed.name.to_string()))?;
        }
        if request.infos.contains(&InfoType::Description) {
            info(Info::Description(agreed.access.description()))?;
        }
        if request.infos.contains(&InfoType::BlockSize) {
            info(Info::BlockSize(BlockSize::default()))?;
        }
        Ok(Ok(agreed))
    }

    /// `EXPORT_NAME`, which can only be answered well.
    fn export_name(&self, name: &[u8], zeroes: bool) -> Result<Agreed, NegotiationError> {
        let text = String::from_utf8_lossy(name);
        let agreed = self.open(&text, OptionType::ExportName).map_err(|error| {
            NegotiationError::Refused(format!("{}: {}", excerpt(&text), error.message))
        })?;
        let mut answer = self.export_info(&agreed).encode().to_vec();
        if zeroes {
            answer.resize(ExportInfo::LEN + ExportInfo::ZEROES, 0);
        }
        self.outgoing.send(&answer)?;
        Ok(agreed)
    }

    fn open(&self, name: &str, option: OptionType) -> Result<Agreed, OptionError> {
        let requested = self.requested(name)?;
        let access = match option {
            OptionType::Info => Access::look(self.exports, &requested)?,
            _ => Access::open(self.exports, &requested, self.limit)?,
        };
        Ok(Agreed {
            name: requested,
            access,
            structured: self.structured,
            block_status: self.context_of.as_deref() == Some(name),
        })
    }

    /// What a name stands for. The empty one is the default export, which is the only one if there is
    /// just one, and otherwise none.
    fn requested(&self, name: &str) -> Result<RequestedExport, OptionError> {
        match self.exports.only() {
            Some(only) if name.is_empty() => Ok(RequestedExport::Plain(only.clone())),
            _ => Ok(name.parse()?),
        }
    }

    fn export_info(&self, agreed: &Agreed) -> ExportInfo {
        use TransmissionFlags as F;
        let access = &agreed.access;
        let mut flags = F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::SEND_CACHE;
        if access.is_read_only() {
            flags |= F::READ_ONLY;
        } else {
            flags |= F::SEND_TRIM | F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO;
        }
        // One process and one page cache, and a flush covers what anybody wrote. Not for a writer
        // or a client with a tag: its next connection takes over from this one.
        flags.set(F::CAN_MULTI_CONN, access.is_multi_conn());
        flags.set(F::SEND_DF, agreed.structured);
        ExportInfo {
            size: access.size(),
            flags,
        }
    }

    /// `LIST_META_CONTEXT` and `SET_META_CONTEXT`. What the disk is called, and the number of this
    /// start of the server, can be listed by who asks for just that, and not be set: there are no blocks to ask about.
    fn meta_context(&mut self, option: OptionType, data: &[u8]) -> io::Result<Answered> {
        let sets = option == OptionType::SetMetaContext;
        if sets {
            // Also when it fails.
            self.context_of = None;
        }
        let (request, access) = match self.decode_meta_context(data) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(error)),
        };
        let asks = |query: &String| query == BASE_ALLOCATION || (!sets && query == "base:");
        let told = [
            (DISK_NAME, access.identity().to_owned()),
            (BOOT_NUMBER, format!("{:016x}", access.boot())),
        ];
        for (query, value) in told {
            if !sets && request.queries.iter().any(|asked| asked == query) {
                let name = format!("{query}={value}");
                let context = MetaContext { id: 0, name };
                self.reply(option, ReplyType::MetaContext, &context.encode())?;
            }
        }
        let all = !sets && request.queries.is_empty();
        if all || request.queries.iter().any(asks) {
            let context = MetaContext {
                id: if sets { BASE_ALLOCATION_ID } else { 0 },
                name: BASE_ALLOCATION.to_owned(),
            };
            self.reply(option, ReplyType::MetaContext, &context.encode())?;
            if sets {
                self.context_of = Some(request.export);
            }
        }
        Ok(Ok(None))
    }

    fn decode_meta_context(
        &self,
        data: &[u8],
    ) -> Result<(MetaContextRequest, Access), OptionError> {
        if !self.structured {
            let message = "structured replies come before metadata contexts";
            return Err(OptionError::new(ReplyType::ErrInvalid, message));
        }
        let request = MetaContextRequest::decode(data)?;
        let access = Access::look(self.exports, &self.requested(&request.export)?)?;
        Ok((request, access))
    }

    fn reply(&self, option: OptionType, reply: ReplyType, data: &[u8]) -> io::Result<()> {
        let header = OptionReplyHeader {
            option,
            reply,
            length: data.len() as u32,
        };
        self.outgoing.send(&[&header.encode(), data].concat())
    }

    fn refuse(&self, option: OptionType, error: &OptionError) -> io::Result<()> {
        log::debug!("{option:?} refused: {}", excerpt(&error.message));
        self.reply(option, error.reply, error.message.as_bytes())
    }
}

fn no_data() -> OptionError {
    OptionError::new(ReplyType::ErrInvalid, "the option has no data")
}
