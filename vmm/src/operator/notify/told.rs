//! What was told last, on disk.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use disk_server::fleet::Entry;

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
    #[error("{} does not have the number and time of a transition: remove it to begin with what happens from now on", path.display())]
    NoMark {
        /// Its path.
        path: PathBuf,
    },
}

/// Which transition was told last. A journal that was restored gives numbers again, and no time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    /// By the service's clock.
    pub(super) unix_ms: u64,
}

impl Mark {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            number: entry.number,
            unix_ms: entry.unix_ms,
        }
    }

    /// Whether this transition came after that one, by what a journal that was restored has of either.
    pub(super) fn is_before(self, entry: &Entry) -> bool {
        entry.number > self.number || entry.unix_ms > self.unix_ms
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, unix_ms) = text.split_once(' ')?;
        Some(Self {
            number: number.parse().ok()?,
            unix_ms: unix_ms.parse().ok()?,
        })
    }
}

/// The last transition that was told, in a file that this process has for itself.
#[derive(Debug)]
pub struct Told {
    path: PathBuf,
    file: File,
    /// `None`: none yet.
    pub(super) last: Option<Mark>,
}

impl Told {
    /// Opens the file, which is made if it is missing, with its directory.
    ///
    /// # Errors
    /// [`ToldError`].
    pub fn open(path: &Path) -> Result<Self, ToldError> {
        let path = path.to_owned();
        let unusable = |source| ToldError::Use {
            path: path.clone(),
            source,
        };
        if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(unusable)?;
        }
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
        let last = match text.trim() {
            "" => None,
            text => {
                let mark = Mark::parse(text);
                Some(mark.ok_or_else(|| ToldError::NoMark { path: path.clone() })?)
            }
        };
        Ok(Self { path, file, last })
    }

    /// Always as long, so that it is written in place, within a sector.
    pub(super) fn keep(&mut self, last: Mark) -> Result<(), ToldError> {
        self.last = Some(last);
        let Mark { number, unix_ms } = last;
        let line = format!("{number:020} {unix_ms:020}\n");
        let written = self.file.write_all_at(line.as_bytes(), 0);
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
    fn what_was_told_is_one_process_s_and_a_number_with_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify/told");
        let mut told = Told::open(&path).unwrap();
        assert_eq!(told.last, None);
        let mark = |number, unix_ms| Mark { number, unix_ms };
        told.keep(mark(u64::MAX, u64::MAX)).unwrap();
        told.keep(mark(7, 8)).unwrap();
        let error = Told::open(&path).unwrap_err();
        assert!(matches!(error, ToldError::Another { .. }), "{error}");
        drop(told);
        assert_eq!(Told::open(&path).unwrap().last, Some(mark(7, 8)));
        for text in ["seven", "7", "7 8 9"] {
            fs::write(&path, text).unwrap();
            let error = Told::open(&path).unwrap_err();
            assert!(matches!(error, ToldError::NoMark { .. }), "{error}");
        }
    }
}
