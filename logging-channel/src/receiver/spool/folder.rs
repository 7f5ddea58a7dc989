//! The directory of a cold backup.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::SpoolError;

const SEGMENT: &str = "ftvm-log-";
const MEMORY: &str = "ftvm-memory-";

/// The file of a transfer's memory in a directory.
pub(super) fn memory(directory: &Path, transfer: u32) -> PathBuf {
    directory.join(format!("{MEMORY}{transfer}"))
}

/// The directory of a cold backup, which is its own for as long as this is there. Empty then.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes it, and deletes what an earlier process left there.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SpoolError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let folder = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        let left = folder.empty().map_err(failed)?;
        if left > 0 {
            log::info!(
                "{}: {left} files of an earlier cold backup are deleted: its session is over",
                path.display()
            );
        }
        Ok(folder)
    }

    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{SEGMENT}{number}"))
    }

    pub(super) fn memory(&self, transfer: u32) -> PathBuf {
        memory(&self.path, transfer)
    }

    pub(super) fn delete(path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            log::warn!("cannot delete {}: {error}", path.display());
        }
    }

    fn empty(&self) -> io::Result<usize> {
        let mut deleted = 0;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let number = name
                .strip_prefix(SEGMENT)
                .or_else(|| name.strip_prefix(MEMORY));
            if number.is_some_and(|number| number.parse::<u64>().is_ok()) {
                fs::remove_file(entry.path())?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

/// What was kept is of no use to anybody else.
impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.empty() {
            log::warn!("cannot empty {}: {error}", self.path.display());
        }
    }
}
