//! From the connection to the open export.

use std::io;
use std::time::Instant;

use transport::{ConnectionError, Stream};

use crate::arbiter::ServerAddress;
use crate::nbd::protocol::{
    BOOT_NUMBER, BlockSize, ClientFlags, CommandFlags, DISK_NAME, ExportInfo, ExportRequest,
    Greeting, HandshakeFlags, Info, InfoType, MAX_STRING, MetaContext, MetaContextRequest,
    OptionHeader, OptionReplyHeader, OptionType, ProtocolError, ReplyType, TransmissionFlags,
};
use crate::stream;

/// Longest data of a reply to an option: a text and a few numbers.
const MAX_REPLY: u32 = MAX_STRING as u32 + 64;

/// Most pieces of information about one export.
const MAX_INFOS: usize = 64;

/// What a server told of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// In bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// What offsets, lengths and payloads have to keep to.
    pub blocks: BlockSize,
}

/// Why there is no connection to an export.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the address.
    #[error("cannot connect to the disk server at {address}")]
    Unreachable {
        /// The server.
        address: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the disk server that it should be, or does not take this side for one that it serves.
    #[error("the disk server at {address} opens no connection")]
    Unopened {
        /// The server.
        address: ServerAddress,
        /// Why.
        source: ConnectionError,
    },
    /// It has no TLS, and this side has a key.
    #[error(
        "the NBD server at {address} is plain, without keys, and this side asks for keys{}: give it a key, or say \
         `plain` here too",
        said(message)
    )]
    Plain {
        /// The server.
        address: ServerAddress,
        /// What it said; may be empty.
        message: String,
    },
    /// The connection broke, or the time was over, before the export was open.
    #[error("the disk server at {address} did not open the export {export:?}")]
    Broken {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// What the system said.
        source: io::Error,
    },
    /// What listens there does not speak NBD as it should.
    #[error("what listens at {address} is not a usable NBD server")]
    Protocol {
        /// The address.
        address: ServerAddress,
        /// What is wrong.
        source: ProtocolError,
    },
    /// It speaks NBD, but not the part of it that is needed.
    #[error("the NBD server at {address} cannot be used: {what}")]
    Unsuitable {
        /// The address.
        address: ServerAddress,
        /// What is missing.
        what: &'static str,
    },
    /// There is no such export.
    #[error(
        "the disk server at {address} has no export {export:?}{}; `nbdinfo --list nbd://{address}` \
         shows those that it has",
        said(message)
    )]
    NoExport {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// What the server said; may be empty.
        message: String,
    },
    /// The server does not want to open it.
    #[error(
        "the disk server at {address} refuses the export {export:?} ({kind:?}){}",
        said(message)
    )]
    Refused {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// The kind of refusal.
        kind: ReplyType,
        /// What the server said; may be empty.
        message: String,
    },
}

impl ConnectError {
    /// Whether the server waits for another option.
    fn leaves_the_choice(&self) -> bool {
        matches!(
            self,
            ConnectError::Unsuitable { .. }
                | ConnectError::NoExport { .. }
                | ConnectError::Refused { .. }
        )
    }
}

/// For people: control characters have no place in it.
fn words(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    text.chars().filter(|c| !c.is_control()).collect()
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// What was agreed on.
pub(crate) struct Agreed {
    pub(crate) export: Export,
    /// What the server told of itself.
    pub(crate) told: Told,
    /// Whether reads are answered with structured replies.
    pub(crate) structured: bool,
}

impl Agreed {
    /// What every read has: of our own server, that its reply is one piece, for which it looks for no
    /// holes. That costs a guest more than it saves: where files are in many pieces, or on a file
    /// system that writes all back before it tells. Another server may refuse long reads in one piece
    /// (`NBD_CMD_FLAG_DF` in "Command flags").
    pub(crate) fn read_flags(&self) -> CommandFlags {
        let can = self.structured && self.export.flags.contains(TransmissionFlags::SEND_DF);
        if can && self.told.name.is_some() {
            CommandFlags::DF
        } else {
            CommandFlags::empty()
        }
    }
}

/// What our own server tells of itself and the disk.
#[derive(Default)]
pub(crate) struct Told {
    /// What it calls the disk.
    pub(crate) name: Option<String>,
    /// The number of its start.
    pub(crate) boot: Option<u64>,
}

/// One negotiation.
pub(crate) struct Negotiation<'a> {
    stream: &'a Stream,
    address: &'a ServerAddress,
    export: &'a str,
    deadline: Instant,
}

impl<'a> Negotiation<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        address: &'a ServerAddress,
        export: &'a str,
        deadline: Instant,
    ) -> Self {
        Self {
            stream,
            address,
            export,
            deadline,
        }
    }

    /// Opens the export, or takes leave of a server that waits for another choice.
    pub(crate) fn run(self) -> Result<Agreed, ConnectError> {
        self.agree().inspect_err(|error| {
            if error.leaves_the_choice() {
                self.abort();
            }
        })
    }

    /// Exchanges greetings.
    pub(crate) fn greet(&self) -> Result<(), ConnectError> {
        let mut bytes = [0; Greeting::LEN];
        self.read(&mut bytes)?;
        let greeting = Greeting::decode(&bytes).map_err(|e| self.protocol(e))?;
        if !greeting.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(self.unsuitable("it does not speak the fixed newstyle protocol"));
        }
        let mut flags = ClientFlags::FIXED_NEWSTYLE;
        if greeting.flags.contains(HandshakeFlags::NO_ZEROES) {
            flags |= ClientFlags::NO_ZEROES;
        }
        self.write(&flags.bits().to_be_bytes())
    }

    /// Asks for TLS, which follows at once.
    pub(crate) fn start_tls(&self) -> Result<(), ConnectError> {
        self.ask(OptionType::StartTls, &[])?;
        match self.reply(OptionType::StartTls)? {
            (ReplyType::Ack, _) => Ok(()),
            (error, data) if error.is_error() => Err(ConnectError::Plain {
                address: self.address.clone(),
                message: words(&data),
            }),
            _ => Err(self.out_of_place()),
        }
    }

    fn agree(&self) -> Result<Agreed, ConnectError> {
        let structured = self.structured_replies()?;
        let told = if structured {
            self.contexts()?
        } else {
            Told::default()
        };
        let export = self.go()?;
        Ok(Agreed {
            export,
            told,
            structured,
        })
    }

    /// Takes leave of a server from which nothing more is wanted ("Terminating the session").
    fn abort(&self) {
        // Only a courtesy, whose answer nobody waits for.
        let _ = self.ask(OptionType::Abort, &[]);
    }

    /// What the server tells of itself, as far as it knows such things.
    fn contexts(&self) -> Result<Told, ConnectError> {
        let request = MetaContextRequest {
            export: self.export.to_owned(),
            queries: vec![DISK_NAME.to_owned(), BOOT_NUMBER.to_owned()],
        };
        self.ask(OptionType::ListMetaContext, &request.encode())?;
        let mut told = Told::default();
        for _ in 0..MAX_INFOS {
            let (reply, data) = self.reply(OptionType::ListMetaContext)?;
            match reply {
                ReplyType::Ack => return Ok(told),
                ReplyType::MetaContext => {
                    let context = MetaContext::decode(&data).map_err(|e| self.protocol(e))?;
                    match context.name.split_once('=') {
                        Some((DISK_NAME, name)) => told.name = Some(name.to_owned()),
                        Some((BOOT_NUMBER, boot)) => told.boot = u64::from_str_radix(boot, 16).ok(),
                        _ => {}
                    }
                }
                // It will say so again, and better, when the export is opened.
                error if error.is_error() => return Ok(Told::default()),
                _ => return Err(self.out_of_place()),
            }
        }
        Err(self.unsuitable("it tells of an export's contexts without an end"))
    }

    fn structured_replies(&self) -> Result<bool, ConnectError> {
        self.ask(OptionType::StructuredReply, &[])?;
        let (reply, _) = self.reply(OptionType::StructuredReply)?;
        match reply {
            ReplyType::Ack => Ok(true),
            other if other.is_error() => Ok(false),
            _ => Err(self.out_of_place()),
        }
    }

    fn go(&self) -> Result<Export, ConnectError> {
        let request = ExportRequest {
            name: self.export.to_owned(),
            infos: vec![InfoType::BlockSize],
        };
        self.ask(OptionType::Go, &request.encode())?;
        let mut size: Option<ExportInfo> = None;
        let mut blocks = BlockSize::default();
        for _ in 0..MAX_INFOS {
            let (reply, data) = self.reply(OptionType::Go)?;
            match reply {
                ReplyType::Ack => {
                    let info = size.ok_or_else(|| {
                        self.protocol(ProtocolError::Invalid {
                            what: "an export without a size",
                        })
                    })?;
                    return Ok(Export {
                        size: info.size,
                        flags: info.flags,
                        blocks,
                    });
                }
                ReplyType::Info => match Info::decode(&data).map_err(|e| self.protocol(e))? {
                    Info::Export(info) => size = Some(info),
                    Info::BlockSize(told) => blocks = told,
                    Info::Name(_) | Info::Description(_) | Info::Other(_) => {}
                },
                error if error.is_error() => return Err(self.refused(error, &data)),
                _ => return Err(self.out_of_place()),
            }
        }
        Err(self.unsuitable("it tells of an export without an end"))
    }

    fn ask(&self, option: OptionType, data: &[u8]) -> Result<(), ConnectError> {
        let header = OptionHeader {
            option,
            length: data.len() as u32,
        };
        self.write(&[&header.encode(), data].concat())
    }

    fn reply(&self, to: OptionType) -> Result<(ReplyType, Vec<u8>), ConnectError> {
        let mut bytes = [0; OptionReplyHeader::LEN];
        self.read(&mut bytes)?;
        let header = OptionReplyHeader::decode(&bytes).map_err(|e| self.protocol(e))?;
        if header.option != to {
            return Err(self.out_of_place());
        }
        if header.length > MAX_REPLY {
            return Err(self.protocol(ProtocolError::TooLong {
                what: "a reply to an option",
            }));
        }
        let mut data = vec![0; header.length as usize];
        self.read(&mut data)?;
        Ok((header.reply, data))
    }

    fn refused(&self, kind: ReplyType, data: &[u8]) -> ConnectError {
        let address = self.address.clone();
        let export = self.export.to_owned();
        let message = words(data);
        match kind {
            ReplyType::ErrUnknown => ConnectError::NoExport {
                address,
                export,
                message,
            },
            kind => ConnectError::Refused {
                address,
                export,
                kind,
                message,
            },
        }
    }

    fn protocol(&self, source: ProtocolError) -> ConnectError {
        ConnectError::Protocol {
            address: self.address.clone(),
            source,
        }
    }

    fn out_of_place(&self) -> ConnectError {
        self.protocol(ProtocolError::Invalid {
            what: "the order of the server's replies",
        })
    }

    fn unsuitable(&self, what: &'static str) -> ConnectError {
        ConnectError::Unsuitable {
            address: self.address.clone(),
            what,
        }
    }

    fn broken(&self, source: io::Error) -> ConnectError {
        ConnectError::Broken {
            address: self.address.clone(),
            export: self.export.to_owned(),
            source,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<(), ConnectError> {
        stream::read_exact(self.stream, buffer, self.deadline).map_err(|e| self.broken(e))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), ConnectError> {
        stream::write_all(self.stream, bytes, self.deadline).map_err(|e| self.broken(e))
    }
}
