//! What a request does, and what is answered: from a request to the bytes of its reply.

use std::io;

use super::buffers::HEADROOM;
use super::negotiation::{Agreed, BASE_ALLOCATION_ID};
use super::protocol::{
    ChunkType, Command, CommandFlags, DEFAULT_MAX_PAYLOAD, ErrorCode, Extent, ExtentFlags,
    RequestHeader, StatusChunk,
};
use super::reply::{Failure, Reply};
use super::timed::{Message, Outgoing};
use crate::export::ModifyError;
use crate::storage::Zeroing;

/// The most data in one request or reply, in bytes.
pub(super) const MAX_PAYLOAD: u32 = DEFAULT_MAX_PAYLOAD;

/// How much of a read is in one chunk of its reply, in bytes, where it may be cut. What is copied
/// twice should fit a processor's cache between.
pub(super) const PIECE: usize = 256 << 10;
/// Longer reads are never done at once.
const SHORT: u32 = 32 << 10;

/// Shorter reads are not looked into for holes: two more system calls cost more than they save. Nor
/// are those whose reply is to be in one piece.
const LOOK_FOR_HOLES: u32 = 64 << 10;
/// Shorter holes are sent as zeroes.
const HOLE_WORTH_TELLING: u64 = 16 << 10;
/// The most pieces of one reply to a read.
const MOST_PIECES: usize = 64;
/// The most extents of one block status. A client asks on where they end.
const MOST_EXTENTS: usize = 1024;

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
        Command::Read => return read(header, room, agreed, outgoing),
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
    replies.extend(Reply::to(header, agreed).head_of_data(true, offset, length));
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

/// A read. Where its reply may be cut, long holes are not sent, and what the room does not hold at once
/// goes out in chunks. Elsewhere a failure behind the first part ends the connection: the protocol
/// has no other word for it.
fn read(
    header: &RequestHeader,
    room: &mut [u8],
    agreed: &Agreed,
    outgoing: &Outgoing<'_>,
) -> io::Result<()> {
    let reply = Reply::to(header, agreed);
    let cut = is_cut(header, agreed);
    let mut at = header.offset;
    let length = u64::from(header.length);
    let end = at + length;
    let pieces = if cut && header.length >= LOOK_FOR_HOLES {
        match pieces_of_read(at, length, agreed) {
            Ok(pieces) => pieces,
            Err(error) => return outgoing.send(&reply.failure(&error.into())),
        }
    } else {
        vec![(length, false)]
    };
    let mut parts = Parts::new(room, outgoing, !cut);
    for (mut left, hole) in pieces {
        while left > 0 {
            let wanted = if hole { 0 } else { left };
            let most = parts.make_room(wanted)?;
            let length = if hole { left } else { left.min(most) };
            let head = if hole {
                reply.hole(at + length == end, at, length as u32)
            } else if cut {
                reply.head_of_data(at + length == end, at, length as u32)
            } else if at == header.offset {
                reply.head_of_data(true, at, header.length)
            } else {
                Vec::new()
            };
            let data = if hole { 0 } else { length as usize };
            if let Err(error) = parts.add(&head, data, |data| agreed.access.read(at, data)) {
                return parts.fail(&reply.failure(&error.into()));
            }
            at += length;
            left -= length;
        }
    }
    parts.send()
}

/// A reply that leaves in parts: gathers what fits into the room, and sends it.
struct Parts<'a> {
    room: &'a mut [u8],
    filled: usize,
    outgoing: &'a Outgoing<'a>,
    /// Whether the parts are one message, with nothing between them.
    whole: bool,
    message: Option<Message<'a>>,
}

impl<'a> Parts<'a> {
    fn new(room: &'a mut [u8], outgoing: &'a Outgoing<'a>, whole: bool) -> Parts<'a> {
        Parts {
            room,
            filled: 0,
            outgoing,
            whole,
            message: None,
        }
    }

    /// How much data there is room for behind a head. If that is little, and less than `wanted`, what
    /// was gathered is sent first.
    fn make_room(&mut self, wanted: u64) -> io::Result<u64> {
        if self.room.len() - self.filled < HEADROOM + wanted.min(4096) as usize {
            self.send()?;
        }
        Ok((self.room.len() - self.filled - HEADROOM) as u64)
    }

    /// Adds a head, and so many bytes of data behind it, or nothing where these cannot be had.
    fn add(
        &mut self,
        head: &[u8],
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let data = self.filled + head.len();
        if length > 0 {
            fill(&mut self.room[data..data + length])?;
        }
        self.room[self.filled..data].copy_from_slice(head);
        self.filled = data + length;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let part = &self.room[..std::mem::take(&mut self.filled)];
        if !self.whole {
            return self.outgoing.send(part);
        }
        match &mut self.message {
            Some(message) => message.send(part),
            None => self.message.insert(self.outgoing.begin()?).send(part),
        }
    }

    /// Ends with a failure.
    fn fail(mut self, failure: &[u8]) -> io::Result<()> {
        match &mut self.message {
            Some(message) => {
                message.break_off();
                Err(io::ErrorKind::BrokenPipe.into())
            }
            // Nothing of it left.
            None if self.whole => self.outgoing.send(failure),
            None => {
                self.send()?;
                self.outgoing.send(failure)
            }
        }
    }
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
    Ok(reply.last_chunk(ChunkType::BlockStatus, &status.encode()))
}
