//! A file of a cold backup: batches as they came.
//!
//! ```text
//!   offset  size  field
//!        0     8  when the batch came, in microseconds since the directory was opened
//!        8     4  CRC-32 of bytes 0 to 7
//!       12     …  a batch (see `codec`)
//!        …        the next one
//! ```

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use super::error::SpoolError;
use crate::codec::{Batch, BatchHeader, DecodeError, HEADER_LEN};

const STAMP_LEN: usize = 12;

/// A batch that came so long after the directory was opened, as it is in a file.
pub(in crate::receiver) fn record(arrived: Duration, batch: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(STAMP_LEN + batch.len());
    record.extend_from_slice(&(arrived.as_micros() as u64).to_le_bytes());
    record.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
    record.extend_from_slice(batch);
    record
}

/// A segment that is read.
#[derive(Debug)]
pub(super) struct SegmentReader {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
}

impl SegmentReader {
    pub(super) fn open(path: PathBuf) -> Result<Self, SpoolError> {
        match File::open(&path) {
            Ok(file) => Ok(Self {
                file: BufReader::with_capacity(1 << 20, file),
                path,
                offset: 0,
            }),
            Err(source) => Err(SpoolError::Read {
                path,
                offset: 0,
                source,
            }),
        }
    }

    /// Up to where it was read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next batch, and when it came; none at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<(Duration, Batch)>, SpoolError> {
        if self
            .file
            .fill_buf()
            .map_err(|source| SpoolError::Read {
                path: self.path.clone(),
                offset: self.offset,
                source,
            })?
            .is_empty()
        {
            return Ok(None);
        }
        let mut stamp = [0; STAMP_LEN];
        self.fill(&mut stamp)?;
        let (arrived, crc) = stamp.split_at(8);
        let found = u32::from_le_bytes(crc.try_into().expect("four bytes"));
        let computed = crc32fast::hash(arrived);
        if found != computed {
            return Err(self.damaged(DecodeError::HeaderChecksum { found, computed }));
        }
        let arrived = u64::from_le_bytes(arrived.try_into().expect("eight bytes"));
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header)?;
        let header = BatchHeader::decode(&header).map_err(|error| self.damaged(error))?;
        let mut body = vec![0; header.body_len()];
        self.fill(&mut body)?;
        let batch = header
            .decode_body(&body)
            .map_err(|error| self.damaged(error))?;
        self.offset += (STAMP_LEN + HEADER_LEN + body.len()) as u64;
        Ok(Some((Duration::from_micros(arrived), batch)))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), SpoolError> {
        self.file.read_exact(buffer).map_err(self.unreadable())
    }

    fn unreadable(&self) -> impl Fn(io::Error) -> SpoolError {
        let (path, offset) = (self.path.clone(), self.offset);
        move |source| SpoolError::Read {
            path: path.clone(),
            offset,
            source,
        }
    }

    fn damaged(&self, source: DecodeError) -> SpoolError {
        SpoolError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            source,
        }
    }

    /// The error that it ends here, and more was written.
    pub(super) fn is_cut(&self) -> SpoolError {
        self.unreadable()(io::ErrorKind::UnexpectedEof.into())
    }
}
