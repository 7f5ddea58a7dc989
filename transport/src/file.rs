//! Files that decide who may speak: whoever else can write them decides it too.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::Uid;

/// What nobody but the owner may do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// But for reading, by the group of a file of root's: it is root that says who is in there.
    Anything,
    Writing,
}

impl Forbidden {
    /// As bits of the mode.
    fn bits(self, is_roots: bool) -> u32 {
        match self {
            Self::Anything if is_roots => 0o037,
            Self::Anything => 0o077,
            Self::Writing => 0o022,
        }
    }
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
    if mode & forbidden.bits(meta.uid() == 0) != 0 {
        return Err(FileError::Mode(mode));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(FileError::Io)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_a_key_of_roots_and_no_other() {
        let is_taken = |mode: u32, is_roots| mode & Forbidden::Anything.bits(is_roots) == 0;
        for (mode, by_root, by_another) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, true, false),
            (0o660, false, false),
            (0o644, false, false),
            (0o601, false, false),
        ] {
            assert_eq!(is_taken(mode, true), by_root, "{mode:o}");
            assert_eq!(is_taken(mode, false), by_another, "{mode:o}");
        }
    }
}
