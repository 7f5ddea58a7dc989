//! Memory streams: the connections that carry guest memory to a backup, beside the log.
//!
//! A transfer of the whole state is mostly memory, of which nothing has to come at a certain place of the
//! log. It goes over TCP connections of its own, so that it delays neither an entry nor an
//! acknowledgement, and threads of their own write and read it. The log says which transfer begins
//! ([`StatePart::Begin`](crate::entry::StatePart)) and how many blocks it has in all
//! ([`StatePart::Memory`](crate::entry::StatePart)).
//!
//! ```text
//!   offset  size  field
//!        0     4  number of the transfer
//!        4     4  length of the block, at most MAX_BLOCK
//!        8     4  CRC-32 of bytes 0 to 7
//!       12     …  block
//! ```
//!
//! A block has its own checksums: this crate only carries it.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use confinement::Calls;
use transport::Stream;

use crate::bytes::Fields;
use crate::loss::LossReason;

/// Length of the header of a block.
const HEADER_LEN: usize = 12;

/// Most bytes of a block.
pub const MAX_BLOCK: usize = 256 * 1024;

/// Bytes of a page of guest memory.
pub const PAGE: usize = 4096;

/// Takes a page: its number, and what it holds.
pub type PutPage<'a> = &'a mut dyn FnMut(u64, &[u8; PAGE]) -> Result<(), String>;

/// Gives the pages of a block, for whoever keeps them.
pub type ReadBlock = fn(block: &[u8], put: PutPage<'_>) -> Result<(), String>;

/// How long a backup may take nothing of a stream: it makes the memory of a large guest zero, or is about to
/// hear that a transfer begins.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most memory streams of a session.
pub const MOST_STREAMS: u8 = 16;

/// Number of the transfer after `last`. That of a renewal, beside a log that is followed meanwhile, is odd,
/// and others are even: a backup that has turned hot throws its memory away, and can tell before its replay
/// has come to its place in the log.
#[must_use]
pub fn next_transfer(last: u32, is_renewal: bool) -> u32 {
    match is_renewal {
        true => (last + 1) | 1,
        false => (last + 2) & !1,
    }
}

/// Whether the transfer with this number is a renewal.
#[must_use]
pub fn is_renewal(transfer: u32) -> bool {
    transfer % 2 == 1
}

/// The primary's end of a memory stream. Blocks of one stream arrive in order; those of different streams
/// do not.
pub struct MemoryStream {
    stream: Stream,
    /// Ends the session.
    lose: Box<dyn Fn(LossReason) + Send>,
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStream").field(&self.stream).finish()
    }
}

impl MemoryStream {
    pub(crate) fn new(
        stream: Stream,
        lose: impl Fn(LossReason) + Send + 'static,
    ) -> io::Result<Self> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let lose = Box::new(lose);
        Ok(Self { stream, lose })
    }

    /// Sends a block of a transfer; waits while the network is full.
    ///
    /// # Errors
    /// The session is over; it is from then on.
    ///
    /// # Panics
    /// If the block is longer than [`MAX_BLOCK`].
    pub fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()> {
        assert!(block.len() <= MAX_BLOCK, "no block is that long");
        let header = header(transfer, block.len() as u32);
        write(&mut self.stream, &header, block)
            .inspect_err(|error| (self.lose)(LossReason::Memory(why(error))))
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("it took nothing for {} s", PATIENCE.as_secs())
        }
        _ => error.to_string(),
    }
}

/// Writes all of both, with one system call and in one segment if they fit.
fn write(stream: &mut impl Write, header: &[u8], block: &[u8]) -> io::Result<()> {
    let written = loop {
        match stream.write_vectored(&[IoSlice::new(header), IoSlice::new(block)]) {
            Ok(written) => break written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let (of_header, of_block) = (
        written.min(header.len()),
        written.saturating_sub(header.len()),
    );
    stream.write_all(&header[of_header..])?;
    stream.write_all(&block[of_block..])?;
    stream.flush()
}

pub(crate) fn header(transfer: u32, len: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&transfer.to_le_bytes());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&header[..8]);
    header[8..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Takes the blocks that come over memory streams: several at a time, each on the thread of its stream.
pub trait TakeBlocks: Send + Sync {
    /// Takes a block of a transfer; may wait until the log has come to that one's begin.
    ///
    /// # Errors
    /// It cannot be used, or none is wanted any more: the stream is read no further.
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String>;

    /// A stream has ended, for this reason.
    fn ended(&self, reason: String);
}

/// Takes guest memory for a replay.
pub trait TakeMemory: TakeBlocks {
    /// Takes all of the memory of a transfer, as `read` gives it, from where it was kept: pages that it does not
    /// give are zero. Waits until the log has come to that one's begin.
    ///
    /// # Errors
    /// As [`TakeBlocks::take`], and those of `read`.
    fn take_all(
        &self,
        transfer: u32,
        read: &dyn Fn(PutPage<'_>) -> Result<(), String>,
    ) -> Result<(), String>;
}

/// The sockets below the memory streams of a session, for who has no guest memory to send and measures the network
/// itself: what goes over them is in clear, and no block may.
pub(crate) fn sockets(streams: &[Stream]) -> io::Result<Vec<TcpStream>> {
    let socket = |stream: &Stream| Ok(stream.as_fd().try_clone_to_owned()?.into());
    streams.iter().map(socket).collect()
}

/// Has the blocks of a session given to `taker`, until its streams end.
pub(crate) fn read(streams: Vec<Stream>, taker: &Arc<dyn TakeBlocks>) -> io::Result<()> {
    for mut stream in streams {
        let taker = Arc::clone(taker);
        let take = move || {
            let mut room = vec![0; MAX_BLOCK];
            let end = loop {
                match read_block(&mut stream, &mut room) {
                    Ok((transfer, block)) => {
                        if let Err(reason) = taker.take(transfer, block) {
                            break reason;
                        }
                    }
                    Err(error) => break error.to_string(),
                }
            };
            // The primary is not to wait for one that does not read.
            let _ = stream.shutdown(Shutdown::Both);
            taker.ended(end);
        };
        let named = thread::Builder::new().name("memory".into());
        // It may be kept in files, or the room for it looked up in some.
        confinement::spawn(named, &[Calls::Files, Calls::Storage], take)?;
    }
    Ok(())
}

/// A block, which is read into the `room` for the longest one.
pub(crate) fn read_block<'a>(
    stream: &mut impl Read,
    room: &'a mut [u8],
) -> io::Result<(u32, &'a [u8])> {
    let nonsense = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    let mut fields = Fields::new(&header);
    let mut field = || fields.u32().map_err(io::Error::other);
    let (transfer, len, crc) = (field()?, field()?, field()?);
    if crc != crc32fast::hash(&header[..8]) {
        return Err(nonsense("the header of a block of memory is damaged"));
    }
    let too_long = || nonsense("a block of memory is longer than any may be");
    let block = room.get_mut(..len as usize).ok_or_else(too_long)?;
    stream.read_exact(block)?;
    Ok((transfer, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_numbered_upwards_and_tell_what_they_are() {
        let mut last = 0;
        for bits in 0u32..1 << 10 {
            let is_renewal_next = bits.count_ones() % 3 == 0;
            let next = next_transfer(last, is_renewal_next);
            assert!(next > last && next <= last + 2);
            assert_eq!(is_renewal(next), is_renewal_next);
            last = next;
        }
    }

    /// TCP's own checksum lets one damaged segment in some ten million through.
    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let good = [&header(7, 6)[..], b"memory"].concat();
        let mut room = [0; 10];
        let mut read = |bytes: &[u8]| -> io::Result<(u32, Vec<u8>)> {
            let (transfer, block) = read_block(&mut &bytes[..], &mut room)?;
            Ok((transfer, block.to_vec()))
        };
        assert_eq!(read(&good).expect("whole"), (7, b"memory".to_vec()));
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            read(&bad).expect_err("it is damaged");
        }
        read(&good[..good.len() - 1]).expect_err("it is cut off");
    }

    #[test]
    fn a_block_without_bounds_is_refused() {
        let mut room = [0; 10];
        for len in [11, u32::MAX] {
            let error = read_block(&mut &header(7, len)[..], &mut room).expect_err("too long");
            assert!(error.to_string().contains("longer"), "{error}");
        }
    }

    #[test]
    fn a_block_is_written_whole_in_however_many_pieces() {
        /// Takes so many bytes at a time, with an interruption before each.
        struct Slow(usize, Vec<u8>, bool);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.2 = !self.2;
                if self.2 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let count = bytes.len().min(self.0);
                self.1.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for at_a_time in 1..20 {
            let mut slow = Slow(at_a_time, Vec::new(), false);
            write(&mut slow, b"header", b"the block").expect("it takes all");
            assert_eq!(slow.1, b"headerthe block");
        }
        let mut whole = Vec::new();
        write(&mut whole, b"header", b"the block").expect("it takes all");
        assert_eq!(whole, b"headerthe block");
    }
}
