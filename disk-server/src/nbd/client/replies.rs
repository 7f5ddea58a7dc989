//! The receiving half.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use transport::Stream;

use super::line::{Expected, Line};
use crate::nbd::protocol::{
    ChunkFlags, ChunkHeader, ChunkType, ErrorChunk, ErrorCode, HoleChunk, MAX_STRING,
    ProtocolError, ReplyHeader, SimpleReply,
};

const BUFFER: usize = 64 * 1024;

/// Longest payload of an error.
const MAX_ERROR: u32 = MAX_STRING as u32 + 64;

/// Offset of 64 bits before the data of a chunk.
const OFFSET: u32 = 8;

/// A request's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's.
    pub cookie: u64,
    /// What was read, nothing for other requests; or why it failed.
    pub result: Result<Vec<u8>, ErrorCode>,
}

/// Why no further reply can be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The server closed the connection, or this side did.
    #[error("the connection was closed")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// The server sent something that is no reply.
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The server sent a reply that fits no request.
    #[error("the server does not keep to the protocol: {what} (cookie {cookie})")]
    Misfit {
        /// What is wrong.
        what: &'static str,
        /// The reply's.
        cookie: u64,
    },
}

impl ReceiveError {
    fn io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

/// Receives replies.
#[derive(Debug)]
pub struct Replies {
    reader: BufReader<Stream>,
    line: Arc<Line>,
    structured: bool,
    /// Structured replies of which a part was received.
    parts: HashMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    data: Vec<u8>,
    /// Which bytes of the data were received, as ranges in order, joined where they touch.
    filled: Vec<(usize, usize)>,
    error: Option<ErrorCode>,
}

impl Part {
    fn new(expected: Expected) -> Self {
        let len = match expected {
            Expected::Data { len, .. } => len as usize,
            Expected::Nothing => 0,
        };
        Self {
            data: vec![0; len],
            filled: Vec::new(),
            error: None,
        }
    }

    /// Notes that these bytes are there. `false` if some of them were there before.
    fn fill(&mut self, start: usize, end: usize) -> bool {
        let place = self.filled.partition_point(|&(_, e)| e <= start);
        if self.filled.get(place).is_some_and(|&(s, _)| s < end) {
            return false;
        }
        self.filled.insert(place, (start, end));
        // Servers send the pieces in order: they become one range.
        if place > 0 && self.filled[place - 1].1 == start {
            self.filled[place - 1].1 = end;
            self.filled.remove(place);
        }
        true
    }

    fn is_complete(&self) -> bool {
        self.filled.iter().map(|(s, e)| e - s).sum::<usize>() == self.data.len()
    }
}

impl Replies {
    pub(super) fn new(stream: Stream, line: Arc<Line>, structured: bool) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, stream),
            line,
            structured,
            parts: HashMap::new(),
        }
    }

    /// Waits for the next reply. After an error there will be no further one, and whether the
    /// requests under way were done is not known.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn next_reply(&mut self) -> Result<Reply, ReceiveError> {
        let reply = self.receive();
        if reply.is_err() {
            self.line.close();
        }
        reply
    }

    fn receive(&mut self) -> Result<Reply, ReceiveError> {
        loop {
            let mut header = [0; ChunkHeader::LEN];
            let (prefix, rest) = header.split_at_mut(ReplyHeader::PREFIX);
            let prefix: &mut [u8; ReplyHeader::PREFIX] =
                prefix.try_into().expect("the array was split there");
            self.reader.read_exact(prefix).map_err(ReceiveError::io)?;
            let more = ReplyHeader::rest(prefix)?;
            let rest = &mut rest[..more];
            self.reader.read_exact(rest).map_err(ReceiveError::io)?;
            match ReplyHeader::decode(&header[..ReplyHeader::PREFIX + more])? {
                ReplyHeader::Simple(simple) => return self.simple(simple),
                ReplyHeader::Chunk(chunk) => {
                    if let Some(reply) = self.chunk(chunk)? {
                        return Ok(reply);
                    }
                }
            }
        }
    }

    fn expected(&self, cookie: u64) -> Result<Expected, ReceiveError> {
        let expected = self.line.under_way().get(&cookie).copied();
        expected.ok_or(ReceiveError::Misfit {
            what: "a reply to no request",
            cookie,
        })
    }

    fn done(
        &mut self,
        cookie: u64,
        result: Result<Vec<u8>, ErrorCode>,
    ) -> Result<Reply, ReceiveError> {
        self.line.under_way().remove(&cookie);
        Ok(Reply { cookie, result })
    }

    fn simple(&mut self, reply: SimpleReply) -> Result<Reply, ReceiveError> {
        let cookie = reply.cookie;
        let misfit = |what| ReceiveError::Misfit { what, cookie };
        let expected = self.expected(cookie)?;
        if self.parts.contains_key(&cookie) {
            return Err(misfit("a simple reply within a structured one"));
        }
        let data = match (expected, reply.error) {
            (_, Some(error)) => return self.done(cookie, Err(error)),
            (Expected::Data { .. }, None) if self.structured => {
                return Err(misfit("a simple reply to a read"));
            }
            (Expected::Data { len, .. }, None) => {
                let mut data = vec![0; len as usize];
                self.reader
                    .read_exact(&mut data)
                    .map_err(ReceiveError::io)?;
                data
            }
            (Expected::Nothing, None) => Vec::new(),
        };
        self.done(cookie, Ok(data))
    }

    /// Takes one chunk; gives the reply if that was its last.
    fn chunk(&mut self, chunk: ChunkHeader) -> Result<Option<Reply>, ReceiveError> {
        let cookie = chunk.cookie;
        let misfit = |what| ReceiveError::Misfit { what, cookie };
        let expected = self.expected(cookie)?;
        if !self.structured {
            return Err(misfit("a structured reply that was not agreed on"));
        }
        let mut part = self
            .parts
            .remove(&cookie)
            .unwrap_or_else(|| Part::new(expected));
        match chunk.kind {
            ChunkType::OffsetData => {
                let len = chunk
                    .length
                    .checked_sub(OFFSET)
                    .filter(|&len| len > 0)
                    .ok_or_else(|| misfit("a chunk without data"))?;
                let mut offset = [0; OFFSET as usize];
                self.reader
                    .read_exact(&mut offset)
                    .map_err(ReceiveError::io)?;
                let at = place(expected, u64::from_be_bytes(offset), len)
                    .filter(|&at| part.fill(at, at + len as usize))
                    .ok_or_else(|| misfit("data that was not asked for"))?;
                self.reader
                    .read_exact(&mut part.data[at..at + len as usize])
                    .map_err(ReceiveError::io)?;
            }
            ChunkType::OffsetHole => {
                let payload = self.payload(chunk, HoleChunk::LEN as u32)?;
                let hole = HoleChunk::decode(&payload)?;
                // The buffer holds zeroes there.
                place(expected, hole.offset, hole.length)
                    .filter(|&at| part.fill(at, at + hole.length as usize))
                    .ok_or_else(|| misfit("a hole that was not asked for"))?;
            }
            ChunkType::None => {
                self.payload(chunk, 0)?;
                if !chunk.flags.contains(ChunkFlags::DONE) {
                    return Err(misfit("an empty chunk that is not the last"));
                }
            }
            kind if kind.is_error() => {
                let payload = self.payload(chunk, MAX_ERROR)?;
                let error = ErrorChunk::decode(kind, &payload)?;
                if !error.message.is_empty() {
                    log::debug!("the disk server says: {}", error.message.escape_debug());
                }
                part.error.get_or_insert(error.code);
            }
            _ => return Err(misfit("a chunk of a kind that was not asked for")),
        }
        if !chunk.flags.contains(ChunkFlags::DONE) {
            self.parts.insert(cookie, part);
            return Ok(None);
        }
        let result = match part.error {
            Some(error) => Err(error),
            None if part.is_complete() => Ok(part.data),
            None => return Err(misfit("a read that lacks a part of its data")),
        };
        self.done(cookie, result).map(Some)
    }

    /// A payload of at most `max` bytes.
    fn payload(&mut self, chunk: ChunkHeader, max: u32) -> Result<Vec<u8>, ReceiveError> {
        if chunk.length > max {
            return Err(ReceiveError::Misfit {
                what: "a chunk that is too long",
                cookie: chunk.cookie,
            });
        }
        let mut payload = vec![0; chunk.length as usize];
        self.reader
            .read_exact(&mut payload)
            .map_err(ReceiveError::io)?;
        Ok(payload)
    }
}

/// Where in a read's data `len` bytes from `offset` of the export belong; `None` if not there.
fn place(expected: Expected, offset: u64, len: u32) -> Option<usize> {
    let Expected::Data {
        offset: first,
        len: whole,
    } = expected
    else {
        return None;
    };
    let at = offset.checked_sub(first)?;
    let end = at.checked_add(len.into())?;
    (end <= whole.into()).then_some(at as usize)
}
