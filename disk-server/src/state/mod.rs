//! What must survive the process: small states, each in a file of its own in one directory.
//!
//! A state changes as a whole: it is written to a new file, which takes the place of the old one.
//!
//! ```text
//!     write new ── fsync new ── rename new to its name ── fsync the directory ── answer
//! ```
//!
//! Whenever the power goes, the name stands for the file before or the file behind the change, whole, and
//! from the answer on for the latter. An error before the end leaves open which. The next change writes
//! another file, so that it need not care what became of the first.
//!
//! A checksum covers every byte. An empty, cut or changed file is an error, and no fresh start.

#[cfg(test)]
mod broken;
mod error;
mod folder;
mod seal;

use std::path::Path;

#[cfg(test)]
pub(crate) use broken::Broken;
pub use error::{OpenStateError, ReplaceError};
pub(crate) use folder::Folder;
pub use folder::StateDirectory;
pub use seal::Damage;
pub(crate) use seal::{Format, Unusable};

/// Reads the state at `path`; `None` where there is none. What is read is on stable storage.
///
/// # Errors
/// See [`OpenStateError`]. For a damaged file it has the remedy.
pub(crate) fn load<T>(
    file: &mut dyn Folder,
    path: &Path,
    decode: impl FnOnce(&[u8]) -> Result<T, Unusable>,
    remedy: &'static str,
) -> Result<Option<T>, OpenStateError> {
    let access = |source| OpenStateError::Access {
        path: path.to_owned(),
        source,
    };
    let Some(bytes) = file.read().map_err(access)? else {
        return Ok(None);
    };
    let state = decode(&bytes).map_err(|unusable| {
        let path = path.to_owned();
        match unusable {
            Unusable::Later(found) => OpenStateError::Later { path, found },
            Unusable::Damaged(source) => OpenStateError::Corrupt {
                path,
                remedy,
                source,
            },
        }
    })?;
    // The process before may have died, and somebody may have copied the file: what is answered from it is to
    // stay.
    file.sync().map_err(access)?;
    Ok(Some(state))
}

/// Has these bytes take the place of the state before. When this has returned well they survive.
///
/// # Errors
/// See [`ReplaceError`].
pub(crate) fn replace(file: &mut dyn Folder, bytes: &[u8]) -> Result<(), ReplaceError> {
    file.write_new(bytes).map_err(ReplaceError::NotWritten)?;
    // Also an error of the renaming says nothing of the disk.
    (file.rename_new())
        .and_then(|()| file.sync())
        .map_err(ReplaceError::NotSafe)
}
