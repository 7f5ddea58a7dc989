//! What a request does, and what is answered: from a request to the bytes of its reply.

use std::io;

use nix::errno::Errno;

use super::negotiation::{Agreed, BASE_ALLOCATION_ID};
use super::protocol::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, DEFAULT_MAX_PAYLOAD, ErrorChunk,
    ErrorCode, Extent, ExtentFlags, HoleChunk, RequestHeader, SimpleReply, StatusChunk,
};
use crate::export::ModifyError;
use crate::storage::{FlushError, Zeroing};

/// The most data in one request or reply, in bytes.
pub(super) const MAX_PAYLOAD: u32 = DEFAULT_MAX_PAYLOAD;

/// Shorter reads are not looked into for holes: two more system calls cost more than they save.
const LOOK_FOR_HOLES: u32 = 64 << 10;
/// Shorter holes are sent as zeroes.
const HOLE_WORTH_TELLING: u64 = 16 << 10;
/// The most pieces of one reply to a read.
const MOST_PIECES: usize = 64;
/// The most extents of one block status. A client asks on where they end.
const MOST_EXTENTS: usize = 1024;

/// A request with its data.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) header: RequestHeader,
    /// Of a write.
    pub(super) data: Vec<u8>,
}

/// Why a request failed: a code for the protocol, and a text for people.
#[derive(Debug)]
pub(super) struct Failure {
    code: ErrorCode,
    message: String,
}

impl Failure {
    fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { code, message }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let code = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => ErrorCode::NoSpace,
            _ if error.kind() == io::ErrorKind::Unsupported => ErrorCode::NotSupported,
            // Not EPERM, whatever the system says: that is for connections without the right.
            _ => ErrorCode::Io,
        };
        if code != ErrorCode::NotSupported {
            log::error!("the storage failed: {error}");
        }
        Failure::new(code, error.to_string())
    }
}

impl From<FlushError> for Failure {
    fn from(error: FlushError) -> Self {
        // To a client that repeats what was not flushed it means "ask the next server", and to every
        // other one that the flush failed.
        Failure::new(ErrorCode::Shutdown, error.to_string())
    }
}

impl From<ModifyError> for Failure {
    fn from(error: ModifyError) -> Self {
        match error {
            ModifyError::Io(error) => error.into(),
            ModifyError::ReadOnly | ModifyError::Refused(_) => {
                Failure::new(ErrorCode::NotPermitted, error.to_string())
            }
        }
    }
}

/// What a command may have besides its number.
fn flags_of(command: Command) -> CommandFlags {
    use CommandFlags as F;
    // FUA is valid for every command ("Command flags").
    F::FUA
        | match command {
            Command::Read => F::DF,
            Command::WriteZeroes => F::NO_HOLE | F::FAST_ZERO,
            Command::BlockStatus => F::REQ_ONE,
            _ => F::empty(),
        }
}

/// Looks at a request before anything is allocated for it.
pub(super) fn check(header: &RequestHeader, agreed: &Agreed) -> Result<(), Failure> {
    let RequestHeader {
        flags,
        command,
        offset,
        length,
        ..
    } = *header;
    let invalid = |message: &str| Err(Failure::new(ErrorCode::Invalid, message));
    if !flags_of(command).contains(flags) {
        return invalid("the command does not have these flags");
    }
    if flags.contains(CommandFlags::DF) && !agreed.structured {
        return invalid("DF is for structured replies");
    }
    let modifies = match command {
        Command::Flush | Command::Disconnect => return Ok(()),
        Command::Read | Command::Cache => false,
        Command::BlockStatus if agreed.block_status => false,
        Command::BlockStatus => return invalid("no metadata context was agreed on"),
        Command::Write | Command::WriteZeroes | Command::Trim => true,
        Command::Other(_) => return invalid("this server does not know the command"),
    };
    if modifies && agreed.access.is_read_only() {
        return Err(ModifyError::ReadOnly.into());
    }
    if matches!(command, Command::Read | Command::Write) && length > MAX_PAYLOAD {
        let code = match command {
            Command::Read if agreed.structured => ErrorCode::Overflow,
            _ => ErrorCode::Invalid,
        };
        return Err(Failure::new(code, "more than 32 MiB at a time"));
    }
    let end = offset.checked_add(length.into());
    if end.is_none_or(|end| end > agreed.access.size()) {
        let code = match command {
            Command::Write | Command::WriteZeroes => ErrorCode::NoSpace,
            _ => ErrorCode::Invalid,
        };
        return Err(Failure::new(code, "it goes beyond the end of the export"));
    }
    Ok(())
}

/// How much memory a request that passed its check takes, in bytes.
pub(super) fn memory(header: &RequestHeader) -> u64 {
    let payload = match header.command {
        Command::Read | Command::Write => header.length,
        Command::BlockStatus => (MOST_EXTENTS * 8) as u32,
        _ => 0,
    };
    u64::from(payload) + 4096
}

/// Does what a request that passed its check asks for. Returns the reply.
pub(super) fn perform(request: &Request, agreed: &Agreed) -> Vec<u8> {
    let header = &request.header;
    let reply = Reply::new(header.cookie, agreed.structured);
    let done = match header.command {
        Command::Read => return read(header, agreed).unwrap_or_else(|f| reply.failure(&f)),
        Command::BlockStatus => {
            return block_status(header, agreed).unwrap_or_else(|f| reply.failure(&f));
        }
        _ => modify(request, agreed),
    };
    match done {
        Ok(()) => reply.done(),
        Err(failure) => reply.failure(&failure),
    }
}

/// The reply to a request that failed its check.
pub(super) fn refuse(header: &RequestHeader, agreed: &Agreed, failure: &Failure) -> Vec<u8> {
    Reply::new(header.cookie, agreed.structured).failure(failure)
}

/// Everything that is answered without data.
fn modify(request: &Request, agreed: &Agreed) -> Result<(), Failure> {
    let access = &agreed.access;
    let RequestHeader {
        flags,
        command,
        offset,
        length,
        ..
    } = request.header;
    let length = u64::from(length);
    match command {
        Command::Write => access.write(offset, &request.data)?,
        Command::WriteZeroes => {
            let how = Zeroing {
                may_punch: !flags.contains(CommandFlags::NO_HOLE),
                only_if_fast: flags.contains(CommandFlags::FAST_ZERO),
            };
            access.zero(offset, length, how)?;
        }
        Command::Trim => access.discard(offset, length)?,
        Command::Flush => return Ok(access.flush()?),
        Command::Cache => {
            access.prefetch(offset, length);
            return Ok(());
        }
        // Answered with data, or not at all.
        Command::Read | Command::BlockStatus | Command::Disconnect | Command::Other(_) => {
            return Ok(());
        }
    }
    if flags.contains(CommandFlags::FUA) {
        access.flush()?;
    }
    Ok(())
}

fn read(header: &RequestHeader, agreed: &Agreed) -> Result<Vec<u8>, Failure> {
    let RequestHeader {
        flags,
        cookie,
        offset,
        length,
        ..
    } = *header;
    let reply = Reply::new(cookie, agreed.structured);
    if !agreed.structured {
        let mut bytes = reply.done();
        read_into(&mut bytes, offset, length.into(), agreed)?;
        return Ok(bytes);
    }
    if length == 0 {
        return Ok(reply.done());
    }
    let in_pieces = length >= LOOK_FOR_HOLES && !flags.contains(CommandFlags::DF);
    let mut bytes = Vec::with_capacity(length as usize + 64);
    let mut at = offset;
    let end = offset + u64::from(length);
    let pieces = if in_pieces {
        pieces_of_read(offset, length.into(), agreed)?
    } else {
        vec![(u64::from(length), false)]
    };
    for (length, hole) in pieces {
        let flags = if at + length == end {
            ChunkFlags::DONE
        } else {
            ChunkFlags::empty()
        };
        if hole {
            let hole = HoleChunk {
                offset: at,
                length: length as u32,
            };
            bytes.extend(reply.chunk(flags, ChunkType::OffsetHole, HoleChunk::LEN));
            bytes.extend(hole.encode());
        } else {
            bytes.extend(reply.chunk(flags, ChunkType::OffsetData, 8 + length as usize));
            bytes.extend(at.to_be_bytes());
            read_into(&mut bytes, at, length, agreed)?;
        }
        at += length;
    }
    Ok(bytes)
}

/// Appends what is read.
fn read_into(bytes: &mut Vec<u8>, offset: u64, length: u64, agreed: &Agreed) -> io::Result<()> {
    let start = bytes.len();
    bytes.resize(start + length as usize, 0);
    agreed.access.read(offset, &mut bytes[start..])
}

/// Lengths, and whether each is a hole; all of the range.
fn pieces_of_read(offset: u64, length: u64, agreed: &Agreed) -> io::Result<Vec<(u64, bool)>> {
    let found = agreed.access.allocations(offset, length, MOST_PIECES)?;
    let mut pieces: Vec<(u64, bool)> = Vec::new();
    let mut covered = 0;
    for allocation in found {
        covered += allocation.length;
        let hole = allocation.hole && allocation.length >= HOLE_WORTH_TELLING;
        match pieces.last_mut() {
            Some((length, was_hole)) if *was_hole == hole => *length += allocation.length,
            _ => pieces.push((allocation.length, hole)),
        }
    }
    if covered < length {
        // Too many pieces to tell: the rest is read.
        pieces.push((length - covered, false));
    }
    Ok(pieces)
}

fn block_status(header: &RequestHeader, agreed: &Agreed) -> Result<Vec<u8>, Failure> {
    let reply = Reply::new(header.cookie, agreed.structured);
    if header.length == 0 {
        return Err(Failure::new(ErrorCode::Invalid, "the status of no bytes"));
    }
    let most = if header.flags.contains(CommandFlags::REQ_ONE) {
        1
    } else {
        MOST_EXTENTS
    };
    let found = agreed
        .access
        .allocations(header.offset, header.length.into(), most)?;
    let status = StatusChunk {
        context: BASE_ALLOCATION_ID,
        extents: found
            .iter()
            .map(|allocation| Extent {
                // Not beyond the request, whose length has 32 bits.
                length: allocation.length as u32,
                flags: if allocation.hole {
                    ExtentFlags::HOLE | ExtentFlags::ZERO
                } else {
                    ExtentFlags::empty()
                },
            })
            .collect(),
    };
    let payload = status.encode();
    let mut bytes = reply.chunk(ChunkFlags::DONE, ChunkType::BlockStatus, payload.len());
    bytes.extend(payload);
    Ok(bytes)
}

/// Makes the replies to one request.
struct Reply {
    cookie: u64,
    structured: bool,
}

impl Reply {
    fn new(cookie: u64, structured: bool) -> Reply {
        Reply { cookie, structured }
    }

    fn chunk(&self, flags: ChunkFlags, kind: ChunkType, length: usize) -> Vec<u8> {
        let header = ChunkHeader {
            flags,
            kind,
            cookie: self.cookie,
            length: length as u32,
        };
        header.encode().to_vec()
    }

    /// Success without data.
    fn done(&self) -> Vec<u8> {
        if self.structured {
            return self.chunk(ChunkFlags::DONE, ChunkType::None, 0);
        }
        self.simple(None)
    }

    fn failure(&self, failure: &Failure) -> Vec<u8> {
        if !self.structured {
            return self.simple(Some(failure.code));
        }
        let error = ErrorChunk {
            code: failure.code,
            message: failure.message.clone(),
            offset: None,
        };
        let payload = error.encode();
        let mut bytes = self.chunk(ChunkFlags::DONE, error.kind(), payload.len());
        bytes.extend(payload);
        bytes
    }

    fn simple(&self, error: Option<ErrorCode>) -> Vec<u8> {
        let cookie = self.cookie;
        SimpleReply { error, cookie }.encode().to_vec()
    }
}
