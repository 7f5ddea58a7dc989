//! Why a state file cannot be used.

use std::io;
use std::path::PathBuf;

use super::seal::Damage;

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStateError {
    /// The state directory is missing and could not be made.
    #[error("cannot make the state directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new state file, or the lock beside it, could not be made.
    #[error("cannot make a state file in {}{}", path.display(), hint(source))]
    Create {
        /// The state directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or file system did not do what was asked of it, which says nothing of the state.
    #[error("cannot use the state file {}{}; nothing is lost, start the server again when that is mended", path.display(), hint(source))]
    Access {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server has it open.
    #[error("the state is in use by another disk-server, which holds {}; stop that one first, or give this one its own --state", path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// An earlier version of the server kept its state there.
    #[error("{} is the state of an earlier version of disk-server, which this one cannot read; see \"The state of an earlier version\" in docs/arbiter.md", path.display())]
    Earlier {
        /// The earlier version's file.
        path: PathBuf,
    },
    /// A later version of the server keeps its state there.
    #[error("the state file {} has version {found} of the format, which this disk-server does not know: start the later one that wrote it", path.display())]
    Later {
        /// The state file.
        path: PathBuf,
        /// The version of its format.
        found: u64,
    },
    /// The state file is damaged.
    #[error("the state file {} is damaged and is not used{remedy}", path.display())]
    Corrupt {
        /// The state file.
        path: PathBuf,
        /// Why not, and what is to be done.
        remedy: &'static str,
        /// What was found.
        #[source]
        source: Damage,
    },
}

/// Why a state did not take the place of the one before.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// It was not written: the one before stands.
    #[error("nothing has changed{}; ask again when that is mended", hint(.0))]
    NotWritten(#[source] io::Error),
    /// It was, and may not survive. Which of the two does is open until another one has taken their place.
    #[error("it is open whether that counts once the server is started again{}; when that is mended ask again, or for what is to be instead, which settles it", hint(.0))]
    NotSafe(#[source] io::Error),
}

impl From<ReplaceError> for io::Error {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::NotWritten(error) | ReplaceError::NotSafe(error) => error,
        }
    }
}

/// What is to be done about an error of the file system.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room on its file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": its file system is mounted read-only",
        io::ErrorKind::PermissionDenied => ": is the directory writable for this user?",
        _ => "",
    }
}
