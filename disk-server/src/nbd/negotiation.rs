//! The server's side of "Fixed newstyle negotiation": options, until an export is chosen.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::haggling::{
    self, NegotiationError, OptionError, leave, next_option, no_data, refuse, reply,
};
use super::names::{ExportNameError, RequestedExport};
use super::protocol::{
    BASE_ALLOCATION, BOOT_NUMBER, BlockSize, ClientFlags, DISK_NAME, ExportInfo, ExportRequest,
    Info, InfoType, ListedExport, MetaContext, MetaContextRequest, OptionType, ProtocolError,
    ReplyType, TransmissionFlags,
};
use super::timed::{Incoming, Outgoing};
use crate::export::{Access, Exports, OpenExportError};
use crate::fence::{Refusal, WaitLimit};
use crate::logging::excerpt;
use crate::policy::{Act, Caller, Denied, Guard};

/// What stands for [`BASE_ALLOCATION`] on our connections.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

/// What a client may choose from, and who it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) exports: &'a Exports,
    pub(super) guard: &'a Guard,
    pub(super) caller: &'a Caller,
    /// Where it is, for the log.
    pub(super) from: &'a str,
}

impl Offer<'_> {
    /// Whether the client may still read this, which it has opened. Who may write is the fence's to say.
    pub(super) fn permit_still(&self, requested: &RequestedExport) -> Result<(), Denied> {
        let target = self.exports.get(requested.export());
        let owner = target.and_then(|target| target.owner());
        let owner = owner.as_ref().map(|(vm, _)| *vm);
        let act = Act::OpenDisk { owner };
        self.guard.permit(self.caller, &act, self.from)
    }

    /// Whether the client may open this.
    fn permit(&self, requested: &RequestedExport) -> Result<(), Denied> {
        let target = self.exports.get(requested.export());
        let owner = target.and_then(|target| target.owner());
        let act = match requested {
            RequestedExport::Plain(_) | RequestedExport::Tagged { .. } => Act::OpenDisk {
                owner: owner.as_ref().map(|(vm, _)| *vm),
            },
            RequestedExport::Writer { vm, .. } => Act::WriteDisk {
                vm,
                holder: owner.as_ref().and_then(|(_, holder)| holder.as_ref()),
            },
        };
        self.guard.permit(self.caller, &act, self.from)
    }
}

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

impl From<Denied> for OptionError {
    fn from(denied: Denied) -> Self {
        OptionError::new(ReplyType::ErrPolicy, denied.to_string())
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

/// Lets a client that has greeted with these flags choose an export.
pub(super) fn negotiate(
    (incoming, outgoing): (&mut Incoming<'_>, &Outgoing<'_>),
    flags: ClientFlags,
    offer: Offer<'_>,
    limit: WaitLimit<'_>,
    deadline: Instant,
    ending: &AtomicBool,
) -> Result<Agreed, NegotiationError> {
    let mut negotiation = Negotiation {
        outgoing,
        offer,
        limit,
        structured: false,
        context_of: None,
    };
    loop {
        let (option, data) = next_option(incoming, outgoing, deadline)?;
        let ends = ending.load(Ordering::Relaxed);
        match option {
            OptionType::ExportName if !ends => {
                let zeroes = !flags.contains(ClientFlags::NO_ZEROES);
                return negotiation.export_name(&data, zeroes);
            }
            OptionType::Abort => return Err(leave(outgoing)),
            _ if ends => refuse(outgoing, option, &haggling::ends())?,
            _ => match negotiation.answer(option, &data)? {
                Ok(None) => reply(outgoing, option, ReplyType::Ack, &[])?,
                Ok(Some(access)) => {
                    reply(outgoing, option, ReplyType::Ack, &[])?;
                    return Ok(access);
                }
                Err(error) => refuse(outgoing, option, &error)?,
            },
        }
    }
}

struct Negotiation<'a> {
    outgoing: &'a Outgoing<'a>,
    offer: Offer<'a>,
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
            OptionType::StartTls => Ok(Err(match self.offer.caller {
                Caller::Anybody => OptionError::new(
                    ReplyType::ErrUnsupported,
                    "this server is plain, without keys, and has no TLS",
                ),
                Caller::Known(_) => OptionError::new(ReplyType::ErrInvalid, "TLS has begun"),
            })),
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
        for (name, export) in self.offer.exports.iter() {
            let listed = ListedExport {
                name: name.to_string(),
                description: export.description(),
            };
            reply(
                self.outgoing,
                OptionType::List,
                ReplyType::Server,
                &listed.encode(),
            )?;
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
        let info = |info: Info| reply(self.outgoing, option, ReplyType::Info, &info.encode());
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
            OptionType::Info => Access::look(self.offer.exports, &requested)?,
            _ => {
                self.offer.permit(&requested)?;
                let access = Access::open(self.offer.exports, &requested, self.limit)?;
                // Another host may have won the epoch that was asked for, before it was opened.
                self.offer.permit(&requested)?;
                access
            }
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
        match self.offer.exports.only() {
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
                reply(
                    self.outgoing,
                    option,
                    ReplyType::MetaContext,
                    &context.encode(),
                )?;
            }
        }
        let all = !sets && request.queries.is_empty();
        if all || request.queries.iter().any(asks) {
            let context = MetaContext {
                id: if sets { BASE_ALLOCATION_ID } else { 0 },
                name: BASE_ALLOCATION.to_owned(),
            };
            reply(
                self.outgoing,
                option,
                ReplyType::MetaContext,
                &context.encode(),
            )?;
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
        let access = Access::look(self.offer.exports, &self.requested(&request.export)?)?;
        Ok((request, access))
    }
}

#[cfg(test)]
mod tests;
