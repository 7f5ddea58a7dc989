//! Where the bytes of an export are kept.
//!
//! [`Storage`] is what the server needs of a disk, and nothing about NBD. [`FileStorage`] is the
//! one implementation that ships: raw image files and block devices. Tests have others, that lose
//! power or fail.

mod file;
mod flush;
mod regions;

use std::fmt;
use std::io;

pub use file::{FileStorage, OpenStorageError};
pub use flush::{FlushError, Flushed};

/// How zeroes are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zeroing {
    /// The range may become a hole. Otherwise it stays allocated, so that later writes to it find
    /// room.
    pub may_punch: bool,
    /// Fail with [`io::ErrorKind::Unsupported`], and change nothing, where it would not be faster
    /// than writing zeroes.
    pub only_if_fast: bool,
}

/// A range of the storage that is alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// In bytes; never 0.
    pub length: u64,
    /// It takes no space, and reads as zeroes.
    pub hole: bool,
}

/// A disk of fixed size.
///
/// Ranges given to it lie within [`Storage::size`]. All methods may be called at the same time,
/// also for ranges that overlap; what overlapping requests leave behind is one or the other, byte
/// for byte. What a method has done is seen by every later call, and survives the process; what
/// [`Storage::flush`] has covered also survives the loss of power.
pub trait Storage: fmt::Debug + Send + Sync {
    /// In bytes.
    fn size(&self) -> u64;

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// Those of the medium.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// The same if it can be done without waiting for the medium. `false`: it cannot, and what is in
    /// `data` is anything.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at_hand(&self, offset: u64, data: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, data);
        Ok(false)
    }

    /// Writes `data` from `offset` on.
    ///
    /// # Errors
    /// Those of the medium. Some of the data may have been written.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Writes `length` zeroes from `offset` on.
    ///
    /// # Errors
    /// Those of the medium, and [`io::ErrorKind::Unsupported`] for [`Zeroing::only_if_fast`] alone.
    fn zero(&self, offset: u64, length: u64, how: Zeroing) -> io::Result<()>;

    /// The range is not needed any more. What it reads as afterwards is not defined.
    ///
    /// # Errors
    /// Those of the medium. Not being able to discard is none.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Brings to stable storage what calls that have returned have done.
    ///
    /// # Errors
    /// Those of the medium. What reached it since the last success is then unknown, and a later
    /// success says nothing about it. [`Flushed`] keeps that in mind.
    fn flush(&self) -> io::Result<()>;

    /// What is allocated in a range that is not empty: at least one piece, at most `most`, one
    /// behind the other from `offset` on, none beyond the range. A hole may be missed.
    ///
    /// # Errors
    /// Those of the medium.
    fn allocations(&self, offset: u64, length: u64, most: usize) -> io::Result<Vec<Allocation>>;

    /// The range will be read soon. A hint.
    fn prefetch(&self, offset: u64, length: u64);
}
