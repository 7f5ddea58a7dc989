//! What was told last, on disk.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why it cannot be known what was told last.
#[derive(Debug, thiserror::Error)]
pub enum ToldError {
    /// The file cannot be used.
    #[error("cannot use {}, which keeps what was told last", path.display())]
    Use {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process tells transitions from there.
    #[error("another process has {}: end that first, or name another file (--told FILE)", path.display())]
    Another {
        /// Its path.
        path: PathBuf,
    },
    /// The file has something else in it.
    #[error("{} does not have the number of a transition: remove it to begin with what happens from now on", path.display())]
    NoNumber {
        /// Its path.
        path: PathBuf,
    },
}

/// The number of the last transition that was told, in a file that this process has for itself.
#[derive(Debug)]
pub struct Told {
    path: PathBuf,
    file: File,
    /// `None`: none yet.
    pub(super) number: Option<u64>,
}

impl Told {
    /// Opens the file, which is made if it is missing.
    ///
    /// # Errors
    /// [`ToldError`].
    pub fn open(path: &Path) -> Result<Self, ToldError> {
        let path = path.to_owned();
        let unusable = |source| ToldError::Use {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).open(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ToldError::Another { path }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unusable)?;
        let number = match text.trim() {
            "" => None,
            number => Some(
                number
                    .parse()
                    .map_err(|_| ToldError::NoNumber { path: path.clone() })?,
            ),
        };
        Ok(Self { path, file, number })
    }

    /// Always as long, so that it is written in place, within a sector.
    pub(super) fn keep(&mut self, number: u64) -> Result<(), ToldError> {
        self.number = Some(number);
        let written = self
            .file
            .write_all_at(format!("{number:020}\n").as_bytes(), 0);
        let kept = written.and_then(|()| self.file.sync_data());
        kept.map_err(|source| ToldError::Use {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_told_is_one_process_s_and_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("told");
        let mut told = Told::open(&path).unwrap();
        assert_eq!(told.number, None);
        told.keep(u64::MAX).unwrap();
        told.keep(7).unwrap();
        let error = Told::open(&path).unwrap_err();
        assert!(matches!(error, ToldError::Another { .. }), "{error}");
        drop(told);
        assert_eq!(Told::open(&path).unwrap().number, Some(7));
        fs::write(&path, "seven").unwrap();
        let error = Told::open(&path).unwrap_err();
        assert!(matches!(error, ToldError::NoNumber { .. }), "{error}");
    }
}
