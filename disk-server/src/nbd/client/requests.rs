//! The sending half.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use transport::Stream;

use super::line::{Expected, Line};
use crate::nbd::protocol::{Command, CommandFlags, RequestHeader};

/// Small requests are sent together.
const BUFFER: usize = 64 * 1024;

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// Sends requests. They may wait in a buffer until [`Requests::flush_buffer`].
///
/// After an error the connection is of no use any more: how much of a request the server got is
/// not known. Dropping this half ends the connection, also for the other one.
#[derive(Debug)]
pub struct Requests {
    writer: BufWriter<Stream>,
    line: Arc<Line>,
    /// What every read has.
    read_flags: CommandFlags,
}

impl Requests {
    pub(super) fn new(stream: Stream, line: Arc<Line>, read_flags: CommandFlags) -> Self {
        Self {
            writer: BufWriter::with_capacity(BUFFER, stream),
            line,
            read_flags,
        }
    }

    /// Reads `len` bytes.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn read(&mut self, cookie: u64, offset: u64, len: u32) -> io::Result<()> {
        let expected = Expected::Data { offset, len };
        let (command, flags) = (Command::Read, self.read_flags);
        self.send(cookie, command, flags, offset, len, expected)
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// The connection is lost, or the data has 4 GiB or more.
    pub fn write(&mut self, cookie: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (command, flags) = (Command::Write, CommandFlags::empty());
        self.send(cookie, command, flags, offset, len, Expected::Nothing)?;
        self.writer.write_all(data)
    }

    /// Brings every write that was answered by now to stable storage.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self, cookie: u64) -> io::Result<()> {
        self.send(
            cookie,
            Command::Flush,
            CommandFlags::empty(),
            0,
            0,
            Expected::Nothing,
        )
    }

    /// Tells the server that `len` bytes are not needed any more.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn trim(&mut self, cookie: u64, offset: u64, len: u32) -> io::Result<()> {
        let (command, flags) = (Command::Trim, CommandFlags::empty());
        self.send(cookie, command, flags, offset, len, Expected::Nothing)
    }

    /// Writes `len` zeroes, which may become a hole if `unmap` says so.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn write_zeroes(
        &mut self,
        cookie: u64,
        offset: u64,
        len: u32,
        unmap: bool,
    ) -> io::Result<()> {
        let flags = if unmap {
            CommandFlags::empty()
        } else {
            CommandFlags::NO_HOLE
        };
        let command = Command::WriteZeroes;
        self.send(cookie, command, flags, offset, len, Expected::Nothing)
    }

    fn send(
        &mut self,
        cookie: u64,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u32,
        expected: Expected,
    ) -> io::Result<()> {
        // First, so that the answer cannot come before it is expected.
        let before = self.line.under_way().insert(cookie, expected);
        assert!(before.is_none(), "cookie {cookie} is used twice at a time");
        let header = RequestHeader {
            flags,
            command,
            cookie,
            offset,
            length,
        };
        self.writer.write_all(&header.encode())
    }

    /// Sends what waits in the buffer.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush_buffer(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Ends the connection, as the protocol has it: the server answers what it has first.
    pub fn disconnect(mut self) {
        let header = RequestHeader {
            flags: CommandFlags::empty(),
            command: Command::Disconnect,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        // Only a courtesy, for which a server that takes nothing is not waited for.
        let _ = self
            .line
            .stream
            .set_write_timeout(Some(FAREWELL))
            .and_then(|()| self.writer.write_all(&header.encode()))
            .and_then(|()| self.writer.flush());
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // First, so that the buffer's own flush finds the end, and does not wait.
        self.line.close();
    }
}
