//! A disk that fails, for tests.

use std::io;

use super::folder::Folder;

/// A state directory in which one of the steps of a change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Write,
    Rename,
    Sync,
}

impl Broken {
    fn step(self, step: Self) -> io::Result<()> {
        match self == step {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Folder for Broken {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn write_new(&mut self, _bytes: &[u8]) -> io::Result<()> {
        self.step(Self::Write)
    }

    fn rename_new(&mut self) -> io::Result<()> {
        self.step(Self::Rename)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step(Self::Sync)
    }
}
