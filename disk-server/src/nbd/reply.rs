//! The replies to requests, as bytes, and the failures among them.

use std::io;

use nix::errno::Errno;

use super::negotiation::Agreed;
use super::protocol::{
    ChunkFlags, ChunkHeader, ChunkType, ErrorChunk, ErrorCode, HoleChunk, RequestHeader,
    SimpleReply,
};
use crate::export::ModifyError;
use crate::storage::FlushError;

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
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
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

/// Makes the replies to one request.
pub(super) struct Reply<'a> {
    header: &'a RequestHeader,
    agreed: &'a Agreed,
}

impl<'a> Reply<'a> {
    pub(super) fn to(header: &'a RequestHeader, agreed: &'a Agreed) -> Reply<'a> {
        Reply { header, agreed }
    }

    fn chunk(&self, last: bool, kind: ChunkType, length: usize) -> Vec<u8> {
        let header = ChunkHeader {
            flags: if last {
                ChunkFlags::DONE
            } else {
                ChunkFlags::empty()
            },
            kind,
            cookie: self.header.cookie,
            length: length as u32,
        };
        header.encode().to_vec()
    }

    /// A whole reply, or the end of one.
    pub(super) fn last_chunk(&self, kind: ChunkType, payload: &[u8]) -> Vec<u8> {
        let mut chunk = self.chunk(true, kind, payload.len());
        chunk.extend(payload);
        chunk
    }

    /// Success without data.
    pub(super) fn done(&self) -> Vec<u8> {
        if self.agreed.structured {
            return self.last_chunk(ChunkType::None, &[]);
        }
        self.simple(None)
    }

    /// What comes before data that was read; at most [`HEADROOM`](super::buffers::HEADROOM) bytes.
    pub(super) fn head_of_data(&self, last: bool, offset: u64, length: u32) -> Vec<u8> {
        if !self.agreed.structured {
            return self.simple(None);
        }
        let mut head = self.chunk(last, ChunkType::OffsetData, 8 + length as usize);
        head.extend(offset.to_be_bytes());
        head
    }

    /// Zeroes that were read; at most [`HEADROOM`](super::buffers::HEADROOM) bytes.
    pub(super) fn hole(&self, last: bool, offset: u64, length: u32) -> Vec<u8> {
        let mut chunk = self.chunk(last, ChunkType::OffsetHole, HoleChunk::LEN);
        chunk.extend(HoleChunk { offset, length }.encode());
        chunk
    }

    /// The failure, of which the log is told too.
    pub(super) fn failure(&self, failure: &Failure) -> Vec<u8> {
        self.log(failure);
        if !self.agreed.structured {
            return self.simple(Some(failure.code));
        }
        let error = ErrorChunk {
            code: failure.code,
            message: failure.message.clone(),
            offset: None,
        };
        self.last_chunk(error.kind(), &error.encode())
    }

    fn log(&self, failure: &Failure) {
        let Some(level) = failure.level else { return };
        let access = &self.agreed.access;
        let limited = match level {
            log::Level::Error => access.failures(),
            _ => access.refusals(),
        };
        if let Some(left_out) = limited.let_through() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_is_missing_is_told_as_that() {
        let code = |errno: Errno| Failure::from(io::Error::from(errno)).code;
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            assert_eq!(code(errno), ErrorCode::NoSpace, "{errno}");
        }
        for errno in [Errno::EIO, Errno::EPERM, Errno::EROFS, Errno::ENOMEM] {
            assert_eq!(code(errno), ErrorCode::Io, "{errno}");
        }
        assert_eq!(code(Errno::EOPNOTSUPP), ErrorCode::NotSupported);
    }
}
