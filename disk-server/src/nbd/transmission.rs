//! What a request does, and what is answered: from a request to the bytes of its reply.

use std::io;

use nix::errno::Errno;

use super::buffers::HEADROOM;
use super::negotiation::{Agreed, BASE_ALLOCATION_ID};
use super::protocol::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, DEFAULT_MAX_PAYLOAD, ErrorChunk,
    ErrorCode, Extent, ExtentFlags, HoleChunk, RequestHeader, SimpleReply, StatusChunk,
};
use super::timed::Outgoing;
use crate::export::ModifyError;
use crate::storage::{FlushError, Zeroing};

/// The most data in one request or reply, in bytes.
pub(super) const MAX_PAYLOAD: u32 = DEFAULT_MAX_PAYLOAD;

/// How much of a read is in one chunk of its reply, in bytes, where it may be cut. What is copied
/// twice should fit a processor's cache between.
pub(super) const PIECE: usize = 256 << 10;
/// Longer reads are never done at once.
const SHORT: u32 = 32 << 10;

/// Shorter reads are not looked into for holes: two more system calls cost more than they save.
const LOOK_FOR_HOLES: u32 = 64 << 10;
/// Shorter holes are sent as zeroes.
const HOLE_WORTH_TELLING: u64 = 16 << 10;
/// The most pieces of one reply to a read.
const MOST_PIECES: usize = 64;
/// The most extents of one block status. A client asks on where they end.
const MOST_EXTENTS: usize = 1024;

/// Why a request failed: a code for the protocol, and a text for people.
#[derive(Debug)]
pub(super) struct Failure {
    code: ErrorCode,
    message: String,
    /// Whether an operator wants to know of it, and of which kind it is then.
    level: Option<log::Level>,
}

impl Failure {
    /// A failure that is the client's.
    fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        let message = message.into();
        let level = None;
        Failure {
            code,
            message,
            level,
        }
    }

    /// For every request from when the server is told to end.
    pub(super) fn shutdown() -> Failure {
        Failure::new(ErrorCode::Shutdown, "the server is ending")
    }

    fn at(self, level: log::Level) -> Failure {
        let level = Some(level);
        Failure { level, ..self }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let failure = |code| Failure::new(code, error.to_string());
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => failure(ErrorCode::NoSpace),
            _ if error.kind() == io::ErrorKind::Unsupported => {
                return failure(ErrorCode::NotSupported);
            }
            // Not EPERM, whatever the system says: that is for connections without the right.
            _ => failure(ErrorCode::Io),
        }
        .at(log::Level::Error)
    }
}

impl From<FlushError> for Failure {
    fn from(error: FlushError) -> Self {
        // To a client that repeats what was not flushed it means "ask the next server", and to every
        // other one that the flush failed.
        Failure::new(ErrorCode::Shutdown, error.to_string()).at(log::Level::Error)
    }
}

impl From<ModifyError> for Failure {
    fn from(error: ModifyError) -> Self {
        match error {
            ModifyError::Io(error) => error.into(),
            ModifyError::ReadOnly => Failure::new(ErrorCode::NotPermitted, error.to_string()),
            ModifyError::Refused(_) => {
                Failure::new(ErrorCode::NotPermitted, error.to_string()).at(log::Level::Warn)
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

/// How much memory a request that passed its check needs at once, in bytes, if it can be had.
pub(super) fn memory(header: &RequestHeader, agreed: &Agreed) -> usize {
    match header.command {
        Command::Read if is_cut(header, agreed) => PIECE.min(header.length as usize),
        Command::Read | Command::Write => header.length as usize,
        _ => 0,
    }
}

/// Whether a read's reply may consist of several chunks.
fn is_cut(header: &RequestHeader, agreed: &Agreed) -> bool {
    agreed.structured && !header.flags.contains(CommandFlags::DF)
}

/// Does what a request that passed its check asks for, and sends the reply. `room` begins with the
/// data of a write, and is where a read goes.
///
/// # Errors
/// The client cannot be told any more.
pub(super) fn perform(
    header: &RequestHeader,
    room: &mut [u8],
    agreed: &Agreed,
    outgoing: &Outgoing<'_>,
) -> io::Result<()> {
    let reply = Reply::to(header, agreed);
    let done = match header.command {
        Command::Read if header.length == 0 => Ok(()),
        Command::Read if is_cut(header, agreed) => {
            return read_in_chunks(header, room, agreed, outgoing);
        }
        Command::Read => return read_in_one(header, room, agreed, outgoing),
        Command::BlockStatus => {
            let status = block_status(header, agreed);
            return outgoing.send(&status.unwrap_or_else(|failure| reply.failure(&failure)));
        }
        _ => modify(header, room, agreed),
    };
    outgoing.send(&match done {
        Ok(()) => reply.done(),
        Err(failure) => reply.failure(&failure),
    })
}

/// Does a request at once if that waits for nothing: a short read of what is in memory. Appends the
/// reply, or nothing.
pub(super) fn perform_now(header: &RequestHeader, agreed: &Agreed, replies: &mut Vec<u8>) -> bool {
    let RequestHeader { offset, length, .. } = *header;
    if header.command != Command::Read || length == 0 || length > SHORT {
        return false;
    }
    let before = replies.len();
    replies.extend(Reply::to(header, agreed).head_of_data(ChunkFlags::DONE, offset, length));
    let start = replies.len();
    replies.resize(start + length as usize, 0);
    // Who does it with time to wait meets the same error.
    let at_hand = agreed.access.read_at_hand(offset, &mut replies[start..]);
    if !at_hand.unwrap_or(false) {
        replies.truncate(before);
        return false;
    }
    true
}

/// Writes some of a long write.
pub(super) fn write_piece(offset: u64, data: &[u8], agreed: &Agreed) -> Result<(), Failure> {
    Ok(agreed.access.write(offset, data)?)
}

/// What is left to do when a long write was written, or was not. Returns the reply.
pub(super) fn end_write(
    header: &RequestHeader,
    written: Result<(), Failure>,
    agreed: &Agreed,
) -> Vec<u8> {
    let reply = Reply::to(header, agreed);
    let done = written.and_then(|()| flush_if_forced(header.flags, agreed));
    done.map_or_else(|failure| reply.failure(&failure), |()| reply.done())
}

/// The reply to a request that failed its check.
pub(super) fn refuse(header: &RequestHeader, agreed: &Agreed, failure: &Failure) -> Vec<u8> {
    Reply::to(header, agreed).failure(failure)
}

/// Everything that is answered without data. `data` begins with that of a write.
fn modify(header: &RequestHeader, data: &[u8], agreed: &Agreed) -> Result<(), Failure> {
    let access = &agreed.access;
    let RequestHeader {
        flags,
        command,
        offset,
        length,
        ..
    } = *header;
    let long = u64::from(length);
    match command {
        Command::Write => access.write(offset, &data[..length as usize])?,
        Command::WriteZeroes => {
            let how = Zeroing {
                may_punch: !flags.contains(CommandFlags::NO_HOLE),
                only_if_fast: flags.contains(CommandFlags::FAST_ZERO),
            };
            access.zero(offset, long, how)?;
        }
        Command::Trim => access.discard(offset, long)?,
        Command::Flush => return Ok(access.flush()?),
        Command::Cache => {
            access.prefetch(offset, long);
            return Ok(());
        }
        // Answered with data, or not at all.
        Command::Read | Command::BlockStatus | Command::Disconnect | Command::Other(_) => {
            return Ok(());
        }
    }
    flush_if_forced(flags, agreed)
}

fn flush_if_forced(flags: CommandFlags, agreed: &Agreed) -> Result<(), Failure> {
    if flags.contains(CommandFlags::FUA) {
        agreed.access.flush()?;
    }
    Ok(())
}

/// A read whose reply is of one piece. If it is longer than the room for it, a failure behind the
/// first part ends the connection: the protocol has no other word for it.
fn read_in_one(
    header: &RequestHeader,
    room: &mut [u8],
    agreed: &Agreed,
    outgoing: &Outgoing<'_>,
) -> io::Result<()> {
    let reply = Reply::to(header, agreed);
    let head = reply.head_of_data(ChunkFlags::DONE, header.offset, header.length);
    let most = room.len() - HEADROOM;
    let mut at = header.offset;
    let mut left = header.length as usize;
    let part = left.min(most);
    room[..head.len()].copy_from_slice(&head);
    let first = &mut room[..head.len() + part];
    if let Err(error) = agreed.access.read(at, &mut first[head.len()..]) {
        return outgoing.send(&reply.failure(&error.into()));
    }
    let mut message = outgoing.begin()?;
    message.send(first)?;
    at += part as u64;
    left -= part;
    while left > 0 {
        let part = &mut room[..left.min(most)];
        if let Err(error) = agreed.access.read(at, part) {
            message.break_off();
            reply.failure(&error.into());
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        message.send(part)?;
        at += part.len() as u64;
        left -= part.len();
    }
    Ok(())
}

/// A read whose reply may consist of chunks, in which long holes are not sent.
fn read_in_chunks(
    header: &RequestHeader,
    room: &mut [u8],
    agreed: &Agreed,
    outgoing: &Outgoing<'_>,
) -> io::Result<()> {
    let reply = Reply::to(header, agreed);
    let mut at = header.offset;
    let end = at + u64::from(header.length);
    let pieces = if header.length < LOOK_FOR_HOLES {
        Ok(vec![(end - at, false)])
    } else {
        pieces_of_read(at, end - at, agreed)
    };
    let pieces = match pieces {
        Ok(pieces) => pieces,
        Err(error) => return outgoing.send(&reply.failure(&error.into())),
    };
    let mut filled = 0;
    for (mut left, hole) in pieces {
        while left > 0 {
            if room.len() - filled < HEADROOM + if hole { 0 } else { left.min(4096) as usize } {
                outgoing.send(&room[..filled])?;
                filled = 0;
            }
            let most = if hole {
                left
            } else {
                left.min((room.len() - filled - HEADROOM) as u64)
            };
            let flags = if at + most == end {
                ChunkFlags::DONE
            } else {
                ChunkFlags::empty()
            };
            let head = if hole {
                reply.hole(flags, at, most as u32)
            } else {
                reply.head_of_data(flags, at, most as u32)
            };
            let data = filled + head.len();
            if !hole {
                let part = &mut room[data..data + most as usize];
                if let Err(error) = agreed.access.read(at, part) {
                    outgoing.send(&room[..filled])?;
                    return outgoing.send(&reply.failure(&error.into()));
                }
            }
            room[filled..data].copy_from_slice(&head);
            filled = data + if hole { 0 } else { most as usize };
            at += most;
            left -= most;
        }
    }
    outgoing.send(&room[..filled])
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
    let reply = Reply::to(header, agreed);
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
struct Reply<'a> {
    header: &'a RequestHeader,
    agreed: &'a Agreed,
}

impl<'a> Reply<'a> {
    fn to(header: &'a RequestHeader, agreed: &'a Agreed) -> Reply<'a> {
        Reply { header, agreed }
    }

    fn chunk(&self, flags: ChunkFlags, kind: ChunkType, length: usize) -> Vec<u8> {
        let header = ChunkHeader {
            flags,
            kind,
            cookie: self.header.cookie,
            length: length as u32,
        };
        header.encode().to_vec()
    }

    /// Success without data.
    fn done(&self) -> Vec<u8> {
        if self.agreed.structured {
            return self.chunk(ChunkFlags::DONE, ChunkType::None, 0);
        }
        self.simple(None)
    }

    /// What comes before data that was read; at most [`HEADROOM`] bytes.
    fn head_of_data(&self, flags: ChunkFlags, offset: u64, length: u32) -> Vec<u8> {
        if !self.agreed.structured {
            return self.simple(None);
        }
        let mut head = self.chunk(flags, ChunkType::OffsetData, 8 + length as usize);
        head.extend(offset.to_be_bytes());
        head
    }

    /// Zeroes that were read; at most [`HEADROOM`] bytes.
    fn hole(&self, flags: ChunkFlags, offset: u64, length: u32) -> Vec<u8> {
        let mut chunk = self.chunk(flags, ChunkType::OffsetHole, HoleChunk::LEN);
        chunk.extend(HoleChunk { offset, length }.encode());
        chunk
    }

    /// The failure, of which the log is told too.
    fn failure(&self, failure: &Failure) -> Vec<u8> {
        self.log(failure);
        if !self.agreed.structured {
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

    fn log(&self, failure: &Failure) {
        let Some(level) = failure.level else { return };
        if let Some(left_out) = self.agreed.access.complaints().let_through() {
            let RequestHeader {
                command,
                offset,
                length,
                ..
            } = self.header;
            log::log!(
                level,
                "export {}: {command:?} of {length} bytes at {offset}: {}{left_out}",
                self.agreed.name,
                failure.message
            );
        }
    }

    fn simple(&self, error: Option<ErrorCode>) -> Vec<u8> {
        let cookie = self.header.cookie;
        SimpleReply { error, cookie }.encode().to_vec()
    }
}
