//! What is written to without waiting for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use confinement::Calls;

/// What a [`LossyWriter`](super::LossyWriter) writes to.
pub trait Consumer: Write + Send + 'static {
    /// What it calls of the system beside writing.
    const CALLS: &'static [Calls] = &[];

    /// Opens the same place again, and tells whether something else is there now.
    ///
    /// # Errors
    /// The system's; the consumer stays as it is then.
    fn reopen(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Consumer for File {}

/// A file that is appended to.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    file: File,
}

impl AppendedFile {
    /// Opens the file; makes it where there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { path, file })
    }
}

impl Write for AppendedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Consumer for AppendedFile {
    const CALLS: &'static [Calls] = &[Calls::Files];

    fn reopen(&mut self) -> io::Result<bool> {
        let opened = Self::open(&self.path)?;
        let (old, new) = (self.file.metadata()?, opened.file.metadata()?);
        *self = opened;
        Ok((old.dev(), old.ino()) != (new.dev(), new.ino()))
    }
}
