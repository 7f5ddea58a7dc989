//! What a cold backup keeps on its disk: the guest's whole state as it was sent last, and the log
//! since then.
//!
//! ```text
//!   DIRECTORY/lock            held by the process that uses the directory
//!   DIRECTORY/ftvm-log-<n>    segments of the log, one after the other (see `segment.rs`)
//!   DIRECTORY/ftvm-memory-<n> the memory of a transfer of the whole state (see `memory.rs`)
//! ```
//!
//! Each transfer of the whole state begins a segment. What a replay begins with, a *generation*, is the
//! last transfer that is complete, and all that follows it: while the next one comes, the generation before
//! it goes on, through that one's segment. When the next one is complete, with its memory, and on the disk where
//! that is asked for, the segments and the memory before it go.

mod error;
mod folder;
mod generation;
mod memory;
mod segment;
mod written;

use std::time::{Duration, Instant};

pub use self::error::SpoolError;
use self::folder::Folder;
pub use self::generation::{ClockEntry, Ended, Generation, Notice};
use self::generation::{Generations, Place};
pub(super) use self::memory::MemoryFile;
use self::segment::SegmentReader;
pub(super) use self::segment::record;
use self::written::Written;
use crate::codec::Batch;
use crate::entry::Lsn;
use crate::memory::is_renewal;
use crate::settings::Keep;

/// The file for the memory of a transfer. While a renewal comes, the log has to get to the same disk in time.
pub(super) fn memory_file(keep: &Keep, transfer: u32) -> Result<MemoryFile, SpoolError> {
    let path = folder::memory(&keep.directory, transfer);
    MemoryFile::create(path, keep.read_block, keep.durable || is_renewal(transfer))
}

/// What a cold backup keeps. Written batch by batch, and read from the last generation on by whoever
/// replays it.
#[derive(Debug)]
pub(super) struct Spool {
    folder: Folder,
    opened: Instant,
    /// The oldest segment that is there.
    oldest: u64,
    newest: u64,
    segment: Written,
    generations: Generations,
    /// What takes another's place has to be on the disk first.
    durable: bool,
    /// Somebody reads: nothing is deleted any more.
    is_read: bool,
}

/// A place in a [`Spool`].
#[derive(Debug)]
pub(super) struct SpoolReader {
    segment: u64,
    file: SegmentReader,
    begin: Lsn,
}

impl Spool {
    /// Takes the directory, and deletes what an earlier process left there.
    pub(super) fn open(keep: &Keep) -> Result<Self, SpoolError> {
        let folder = Folder::open(&keep.directory)?;
        let segment = Written::create(folder.segment(0))?;
        Ok(Self {
            folder,
            opened: Instant::now(),
            oldest: 0,
            newest: 0,
            segment,
            generations: Generations::default(),
            durable: keep.durable,
            is_read: false,
        })
    }

    /// When the directory was opened: what comes is kept with the time since then.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Keeps a batch that came at `arrived`, when the primary's guest had used so much of a processor.
    pub(super) fn put(
        &mut self,
        batch: &Batch,
        record: &[u8],
        arrived: Instant,
        used: Duration,
    ) -> Result<(), SpoolError> {
        if Generations::begins(batch) {
            if self.durable {
                self.sync()?;
            }
            self.newest += 1;
            self.segment = Written::create(self.folder.segment(self.newest))?;
        }
        self.segment.put(record)?;
        let place = Place {
            segment: self.newest,
            bytes: record.len() as u64,
            arrived,
            used,
        };
        self.generations.take(batch, &place);
        Ok(())
    }

    /// The memory of the transfer whose end has come is there, and on the disk where that is asked for: the
    /// state is complete.
    pub(super) fn complete(&mut self) -> Result<(), SpoolError> {
        if self.durable {
            self.sync()?;
        }
        self.generations.end();
        Ok(())
    }

    /// Deletes the log that no replay needs.
    pub(super) fn forget(&mut self) {
        let segment = self.generations.complete().segment;
        if !self.is_read {
            (self.oldest..segment).for_each(|old| Folder::delete(&self.folder.segment(old)));
            self.oldest = segment;
        }
    }

    /// The memory of a transfer is not needed any more.
    pub(super) fn forget_memory(&self, transfer: u32) {
        Folder::delete(&self.folder.memory(transfer));
    }

    /// Waits until all of it is on the disk.
    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        self.segment.sync()
    }

    /// What is kept.
    pub(super) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// The transfer that is under way will not be complete.
    pub(super) fn give_up(&mut self) {
        self.generations.give_up();
    }

    /// A reader from the last generation on.
    pub(super) fn read(&mut self) -> Result<SpoolReader, SpoolError> {
        self.is_read = true;
        let from = self.generations.complete();
        Ok(SpoolReader {
            segment: from.segment,
            file: SegmentReader::open(self.folder.segment(from.segment))?,
            begin: from.begin,
        })
    }

    /// The next batch, and when it had come; none if all that is kept was read.
    pub(super) fn next(
        &self,
        reader: &mut SpoolReader,
    ) -> Result<Option<(Instant, Batch)>, SpoolError> {
        loop {
            if reader.segment == self.newest && reader.file.offset() == self.segment.bytes() {
                return Ok(None);
            }
            let Some((arrived, mut batch)) = reader.file.next()? else {
                if reader.segment == self.newest {
                    return Err(reader.file.is_cut());
                }
                reader.segment += 1;
                reader.file = SegmentReader::open(self.folder.segment(reader.segment))?;
                continue;
            };
            let before = reader.begin.0.saturating_sub(batch.first.0);
            if before >= batch.entries.len() as u64 {
                continue;
            }
            batch.entries.drain(..before as usize);
            batch.first = Lsn(batch.first.0 + before);
            return Ok(Some((self.opened + arrived, batch)));
        }
    }
}
