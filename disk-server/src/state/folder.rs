//! The state directory: what is done to the file system, and in which order it is safe.

use std::fmt::Debug;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OpenStateError;
use super::seal::MAX_STATE;

/// Locked while a server has the state directory. Its content does not matter.
const LOCK_FILE: &str = "lock";
/// What the state was in once, before the first release.
const EARLIER_FILE: &str = "arbiter.redb";

/// What a store needs of a file system. It stands for one that renames a file as a whole, also when the
/// power goes.
pub(crate) trait Folder: Debug + Send {
    /// The content of the state file, or a little more than [`MAX_STATE`] of it, which survives from then on;
    /// `None` where there is none.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Writes a new file, in place of one that was left over, and has its content survive.
    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes it the state file.
    fn rename_new(&mut self) -> io::Result<()>;

    /// Has the state file's name survive. Its content does, as it was written or read.
    fn sync(&mut self) -> io::Result<()>;
}

/// A state directory, locked against other servers.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    directory: File,
    /// The lock ends with the process, however that ends.
    _lock: File,
}

/// A state file in it.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// The next one, until it takes its place. One that is left over says nothing.
    new: PathBuf,
    directory: Arc<StateDirectory>,
}

impl StateDirectory {
    /// Makes a directory if it is missing.
    ///
    /// # Errors
    /// [`OpenStateError::MakeDirectory`].
    pub fn make(path: &Path) -> Result<(), OpenStateError> {
        let make = || {
            if fs::exists(path)? {
                return Ok(());
            }
            fs::create_dir_all(path)?;
            match path.canonicalize()?.parent() {
                // Its name is as durable as what is in it.
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        make().map_err(|source| OpenStateError::MakeDirectory {
            path: path.to_owned(),
            source,
        })
    }

    /// Opens a directory, which is made if it is missing.
    ///
    /// # Errors
    /// See [`OpenStateError`].
    pub fn open(path: &Path) -> Result<Arc<StateDirectory>, OpenStateError> {
        Self::make(path)?;
        let made = |source| OpenStateError::MakeDirectory {
            path: path.to_owned(),
            source,
        };
        let directory = File::open(path).map_err(made)?;
        let lock = lock(path)?;
        let earlier = path.join(EARLIER_FILE);
        // Also beside a state of ours: who went back to the earlier version may have decided since.
        if fs::exists(&earlier).map_err(made)? {
            return Err(OpenStateError::Earlier { path: earlier });
        }
        Ok(Arc::new(StateDirectory {
            path: path.to_owned(),
            directory,
            _lock: lock,
        }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its state file of this name.
    pub(crate) fn file(self: &Arc<Self>, name: &str) -> StateFile {
        StateFile {
            path: self.path.join(name),
            new: self.path.join(format!("{name}.new")),
            directory: Arc::clone(self),
        }
    }
}

fn lock(directory: &Path) -> Result<File, OpenStateError> {
    let path = directory.join(LOCK_FILE);
    let failed = |source| OpenStateError::Create {
        path: directory.to_owned(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenStateError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl StateFile {
    /// Has its content survive, to which was appended, and its name.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync_all(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        self.sync()
    }
}

impl Folder for StateFile {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        file.sync_all()?;
        let mut bytes = Vec::new();
        file.take(MAX_STATE + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&self.new)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename_new(&mut self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.directory.directory.sync_all()
    }
}
