//! An NBD client that does what a test tells it to, sense or not.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use disk_server::nbd::protocol::{
    BASE_ALLOCATION, ChunkFlags, ChunkType, ClientFlags, Command, CommandFlags, ErrorChunk,
    ErrorCode, ExportInfo, ExportRequest, Extent, Greeting, HoleChunk, Info, InfoType,
    MetaContextRequest, OptionHeader, OptionReplyHeader, OptionType, ReplyHeader, ReplyType,
    RequestHeader, StatusChunk,
};

use crate::support::{GENEROUS, until};

/// What an option was refused with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reply: ReplyType,
    pub(crate) message: String,
}

/// What an option was answered with before the final acknowledgement.
pub(crate) type OptionReplies = Vec<(ReplyType, Vec<u8>)>;

/// A client in the negotiation.
pub(crate) struct Negotiation {
    pub(crate) stream: TcpStream,
}

impl Negotiation {
    /// Connects, and gets over the greetings.
    pub(crate) fn start(address: SocketAddr) -> io::Result<Negotiation> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(GENEROUS))?;
        stream.set_write_timeout(Some(GENEROUS))?;
        stream.set_nodelay(true)?;
        let mut greeting = [0; Greeting::LEN];
        stream.read_exact(&mut greeting)?;
        Greeting::decode(&greeting).unwrap();
        stream.write_all(&ClientFlags::all().bits().to_be_bytes())?;
        Ok(Negotiation { stream })
    }

    /// Sends an option and takes all replies to it.
    pub(crate) fn option(
        &mut self,
        option: OptionType,
        data: &[u8],
    ) -> io::Result<Result<OptionReplies, Refused>> {
        let length = u32::try_from(data.len()).unwrap();
        let header = OptionHeader { option, length };
        self.stream.write_all(&[&header.encode(), data].concat())?;
        let mut replies = Vec::new();
        loop {
            let mut header = [0; OptionReplyHeader::LEN];
            self.stream.read_exact(&mut header)?;
            let header = OptionReplyHeader::decode(&header).unwrap();
            assert_eq!(header.option, option);
            let mut data = vec![0; header.length as usize];
            self.stream.read_exact(&mut data)?;
            if header.reply == ReplyType::Ack {
                return Ok(Ok(replies));
            }
            if header.reply.is_error() {
                return Ok(Err(Refused {
                    reply: header.reply,
                    message: String::from_utf8(data).unwrap(),
                }));
            }
            replies.push((header.reply, data));
        }
    }

    /// Agrees on structured replies, and on the status of blocks.
    pub(crate) fn structured(&mut self, export: &str) -> io::Result<Result<(), Refused>> {
        if let Err(refused) = self.option(OptionType::StructuredReply, &[])? {
            return Ok(Err(refused));
        }
        let request = MetaContextRequest {
            export: export.to_owned(),
            queries: vec![BASE_ALLOCATION.to_owned()],
        };
        let set = self.option(OptionType::SetMetaContext, &request.encode())?;
        Ok(set.map(|contexts| assert_eq!(contexts.len(), 1)))
    }

    /// The same, as soon as the server has a place.
    pub(crate) fn start_when_let_in(address: SocketAddr) -> Negotiation {
        let mut started = None;
        until("a place", || {
            started = Negotiation::start(address).ok();
            started.is_some()
        });
        started.unwrap()
    }

    /// Chooses an export without waiting for the answer.
    pub(crate) fn send_go(&mut self, export: &str) {
        let request = ExportRequest {
            name: export.to_owned(),
            infos: Vec::new(),
        };
        let data = request.encode();
        let length = u32::try_from(data.len()).unwrap();
        let option = OptionType::Go;
        let header = OptionHeader { option, length };
        let message = [&header.encode()[..], &data].concat();
        self.stream.write_all(&message).unwrap();
    }

    /// Chooses an export.
    pub(crate) fn go(mut self, export: &str) -> io::Result<Result<Client, Refused>> {
        let request = ExportRequest {
            name: export.to_owned(),
            infos: vec![InfoType::BlockSize],
        };
        let replies = match self.option(OptionType::Go, &request.encode())? {
            Ok(replies) => replies,
            Err(refused) => return Ok(Err(refused)),
        };
        let info = replies
            .iter()
            .find_map(|(_, data)| match Info::decode(data).unwrap() {
                Info::Export(info) => Some(info),
                _ => None,
            });
        Ok(Ok(Client {
            stream: self.stream,
            info: info.unwrap(),
            next: 1,
            pending: BTreeMap::new(),
        }))
    }
}

/// A client with an export.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) info: ExportInfo,
    next: u64,
    /// Requests without a reply, and where they begin and how long they are.
    pending: BTreeMap<u64, (Command, u64, u32)>,
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) result: Result<Data, ErrorCode>,
}

/// What came with a reply.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) bytes: Vec<u8>,
    /// How many of the bytes came as holes.
    pub(crate) holes: u64,
    pub(crate) extents: Vec<Extent>,
}

impl Client {
    /// Opens an export with structured replies; the server must let it.
    pub(crate) fn open(address: SocketAddr, export: &str) -> Client {
        Client::try_open(address, export).unwrap().unwrap()
    }

    pub(crate) fn try_open(
        address: SocketAddr,
        export: &str,
    ) -> io::Result<Result<Client, Refused>> {
        let mut negotiation = Negotiation::start(address)?;
        match negotiation.structured(export)? {
            Ok(()) => negotiation.go(export),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Sends a request without waiting for its reply.
    pub(crate) fn send(
        &mut self,
        (command, flags): (Command, CommandFlags),
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u64> {
        let cookie = self.next;
        self.next += 1;
        let header = RequestHeader {
            flags,
            command,
            cookie,
            offset,
            length,
        };
        self.pending.insert(cookie, (command, offset, length));
        self.stream.write_all(&[&header.encode(), data].concat())?;
        Ok(cookie)
    }

    /// The test sends writes with the cookies from 1 on by itself.
    pub(crate) fn expect_writes(&mut self, count: u64) {
        self.pending
            .extend((1..=count).map(|cookie| (cookie, (Command::Write, 0, 0))));
    }

    /// The next reply, whichever request it is for.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut data = Data::default();
        let mut covered = 0;
        let mut error = None;
        loop {
            let mut prefix = [0; ReplyHeader::PREFIX];
            self.stream.read_exact(&mut prefix)?;
            let mut rest = vec![0; ReplyHeader::rest(&prefix).unwrap()];
            self.stream.read_exact(&mut rest)?;
            let header = match ReplyHeader::decode(&[&prefix[..], &rest].concat()).unwrap() {
                ReplyHeader::Chunk(header) => header,
                ReplyHeader::Simple(reply) => {
                    let (command, _, length) = self.pending.remove(&reply.cookie).unwrap();
                    if command == Command::Read && reply.error.is_none() {
                        data.bytes = vec![0; length as usize];
                        self.stream.read_exact(&mut data.bytes)?;
                    }
                    return Ok(Reply {
                        cookie: reply.cookie,
                        result: reply.error.map_or(Ok(data), Err),
                    });
                }
            };
            let (command, start, length) = self.pending[&header.cookie];
            if command == Command::Read && data.bytes.is_empty() {
                data.bytes = vec![0; length as usize];
            }
            let mut payload = vec![0; header.length as usize];
            self.stream.read_exact(&mut payload)?;
            match header.kind {
                ChunkType::None => assert!(payload.is_empty()),
                ChunkType::OffsetData => {
                    let (offset, bytes) = payload.split_first_chunk().unwrap();
                    let at = usize::try_from(u64::from_be_bytes(*offset) - start).unwrap();
                    data.bytes[at..at + bytes.len()].copy_from_slice(bytes);
                    covered += bytes.len() as u64;
                }
                ChunkType::OffsetHole => {
                    let hole = HoleChunk::decode(&payload).unwrap();
                    assert!(hole.offset >= start);
                    data.holes += u64::from(hole.length);
                    covered += u64::from(hole.length);
                }
                ChunkType::BlockStatus => {
                    data.extents = StatusChunk::decode(&payload).unwrap().extents;
                }
                kind if kind.is_error() => {
                    error = Some(ErrorChunk::decode(kind, &payload).unwrap().code);
                }
                other => panic!("a chunk {other:?}"),
            }
            if header.flags.contains(ChunkFlags::DONE) {
                self.pending.remove(&header.cookie);
                if command == Command::Read && error.is_none() {
                    assert_eq!(covered, u64::from(length), "not all was read");
                }
                return Ok(Reply {
                    cookie: header.cookie,
                    result: error.map_or(Ok(data), Err),
                });
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(
        &mut self,
        request: (Command, CommandFlags),
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<Result<Data, ErrorCode>> {
        let cookie = self.send(request, offset, length, data)?;
        let reply = self.receive()?;
        assert_eq!(reply.cookie, cookie);
        Ok(reply.result)
    }

    /// A command without flags or data.
    pub(crate) fn plain(
        &mut self,
        command: Command,
        offset: u64,
        length: u32,
    ) -> Result<Data, ErrorCode> {
        self.call((command, CommandFlags::empty()), offset, length, &[])
            .unwrap()
    }

    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, ErrorCode> {
        self.plain(Command::Read, offset, length).map(|d| d.bytes)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorCode> {
        let length = u32::try_from(data.len()).unwrap();
        let request = (Command::Write, CommandFlags::empty());
        self.call(request, offset, length, data)
            .unwrap()
            .map(|_| ())
    }

    pub(crate) fn flush(&mut self) -> Result<(), ErrorCode> {
        self.plain(Command::Flush, 0, 0).map(|_| ())
    }
}
