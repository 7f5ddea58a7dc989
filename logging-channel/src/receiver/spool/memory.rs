//! The memory of a transfer of the whole state, as a cold backup keeps it: blocks as they came.
//!
//! ```text
//!   offset  size  field
//!        0     4  length of the block
//!        4     4  CRC-32 of bytes 0 to 3, and of the block
//!        8     …  block
//!        …        the next one
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use super::error::SpoolError;
use super::written::Written;
use crate::memory::MAX_BLOCK;

const HEADER_LEN: usize = 8;

fn checksum(len: [u8; 4], block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(block);
    hasher.finalize()
}

/// The memory of a transfer that comes.
#[derive(Debug)]
pub(in crate::receiver) struct MemoryFile {
    file: Written,
    blocks: u64,
}

impl MemoryFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, SpoolError> {
        let file = Written::create(path)?;
        Ok(Self { file, blocks: 0 })
    }

    /// Keeps a block.
    pub(in crate::receiver) fn put(&mut self, block: &[u8]) -> Result<(), SpoolError> {
        let len = (block.len() as u32).to_le_bytes();
        let mut record = Vec::with_capacity(HEADER_LEN + block.len());
        record.extend_from_slice(&len);
        record.extend_from_slice(&checksum(len, block).to_le_bytes());
        record.extend_from_slice(block);
        self.file.put(&record)?;
        self.blocks += 1;
        Ok(())
    }

    pub(in crate::receiver) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync()
    }

    /// How many blocks it has.
    pub(in crate::receiver) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How long it is.
    pub(in crate::receiver) fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}

/// The memory of a transfer, read.
#[derive(Debug)]
pub(in crate::receiver) struct MemoryReader {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    left: u64,
}

impl MemoryReader {
    pub(super) fn open(path: PathBuf, blocks: u64) -> Result<Self, SpoolError> {
        match File::open(&path) {
            Ok(file) => Ok(Self {
                file: BufReader::with_capacity(1 << 20, file),
                path,
                offset: 0,
                left: blocks,
            }),
            Err(source) => Err(SpoolError::Read {
                path,
                offset: 0,
                source,
            }),
        }
    }

    /// The next block.
    pub(in crate::receiver) fn next(&mut self) -> Result<Option<Vec<u8>>, SpoolError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut read = || {
            let mut header = [0; HEADER_LEN];
            self.file.read_exact(&mut header)?;
            let ([len, crc], _) = header.as_chunks::<4>() else {
                unreachable!("two words");
            };
            let bytes = u32::from_le_bytes(*len) as usize;
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong");
            if bytes > MAX_BLOCK {
                return Err(damaged());
            }
            let mut block = vec![0; bytes];
            self.file.read_exact(&mut block)?;
            match checksum(*len, &block) == u32::from_le_bytes(*crc) {
                true => Ok(block),
                false => Err(damaged()),
            }
        };
        let block = read().map_err(|source| SpoolError::Read {
            path: self.path.clone(),
            offset: self.offset,
            source,
        })?;
        self.offset += (HEADER_LEN + block.len()) as u64;
        self.left -= 1;
        Ok(Some(block))
    }
}
