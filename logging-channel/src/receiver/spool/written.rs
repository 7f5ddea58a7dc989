//! A file of a cold backup, as it is written.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::error::SpoolError;

/// A file that is written from its begin to its end.
#[derive(Debug)]
pub(super) struct Written {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Written {
    /// A new file.
    pub(super) fn create(path: PathBuf) -> Result<Self, SpoolError> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self {
                file,
                path,
                bytes: 0,
            }),
            Err(source) => Err(SpoolError::Write { path, source }),
        }
    }

    fn failed(&self) -> impl Fn(io::Error) -> SpoolError {
        let path = self.path.clone();
        move |source| SpoolError::Write {
            path: path.clone(),
            source,
        }
    }

    /// Writes what comes next.
    pub(super) fn put(&mut self, record: &[u8]) -> Result<(), SpoolError> {
        self.file.write_all(record).map_err(self.failed())?;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Waits until it is on the disk.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(self.failed())
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
