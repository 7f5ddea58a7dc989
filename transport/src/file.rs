//! Files that decide who may speak: whoever else can write them decides it too.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::Uid;

/// What nobody but the owner may do with a file, as bits of its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    Anything = 0o077,
    Writing = 0o022,
}

/// Why a file is not taken.
#[derive(Debug)]
pub(crate) enum FileError {
    Io(io::Error),
    /// It belongs to this user.
    Owner(u32),
    /// Others may do what they must not, with this mode.
    Mode(u32),
}

/// Reads a file that belongs to root or to the user of this process. What is looked at is what is read.
pub(crate) fn read(path: &Path, forbidden: Forbidden) -> Result<String, FileError> {
    let mut file = File::open(path).map_err(FileError::Io)?;
    let meta = file.metadata().map_err(FileError::Io)?;
    if meta.uid() != 0 && meta.uid() != Uid::effective().as_raw() {
        return Err(FileError::Owner(meta.uid()));
    }
    let mode = meta.mode() & 0o7777;
    if mode & forbidden as u32 != 0 {
        return Err(FileError::Mode(mode));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(FileError::Io)?;
    Ok(text)
}
