//! Opening the state: locking, creating, and finding damage before anything is written.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, DatabaseError, StorageBackend as _};

use super::{EPOCHS, EpochStore, FORMAT, FORMAT_KEY, FORMAT_WITH_FLOOR, META, STATE_FILE};

/// Locked while a server has the state directory. Its content does not matter.
const LOCK_FILE: &str = "lock";
/// Far more than the most virtual machines take.
const MAX_STATE: u64 = 256 << 20;
/// redb's default cache of 1 GiB suits larger databases.
const CACHE_BYTES: usize = 4 << 20;

/// Where things are in the header of a redb file of format 3: a byte of flags, and the two commit
/// slots, each of which ends with its checksum.
mod header {
    pub(super) const FLAGS: usize = 9;
    pub(super) const SECOND_SLOT_COUNTS: u8 = 1;
    pub(super) const TWO_PHASE: u8 = 4;
    pub(super) const SLOTS: usize = 64;
    pub(super) const SLOT_LEN: usize = 128;
    pub(super) const LEN: usize = SLOTS + 2 * SLOT_LEN;
}

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// The state file is there and cannot be opened.
    #[error("cannot open the state file {} for reading and writing", path.display())]
    Access {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is sound as far as it was read, but the disk or file system did not do what
    /// was asked of it.
    #[error("cannot use the state file {}{}; nothing is lost, start the server again when that is mended", path.display(), hint(source))]
    Io {
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
    /// The state file is damaged. Epochs could go back if it were used.
    #[error("the state file {} is damaged and is not used, because epochs could go back; see \"When the state is damaged\" in docs/arbiter.md", path.display())]
    Corrupt {
        /// The state file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: Damage,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room on its file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": its file system is mounted read-only",
        io::ErrorKind::PermissionDenied => ": is the directory writable for this user?",
        _ => "",
    }
}

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is larger than a state can be, and is not read into memory.
    #[error("the file has more than {MAX_STATE} bytes")]
    Oversize,
    /// The file ends within its header.
    #[error("the file ends within its header")]
    Cut,
    /// The database says so.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// It is a sound database of another kind or of another version.
    #[error(
        "its format is {found:?}, this server writes the formats {FORMAT} and {FORMAT_WITH_FLOOR}"
    )]
    Format {
        /// The format number in the file.
        found: Option<u64>,
    },
    /// A row breaks the rules of records.
    #[error("its record of {vm:?} is not valid: {what}")]
    Record {
        /// The row's key.
        vm: String,
        /// What is wrong.
        what: String,
    },
}

impl EpochStore {
    /// Opens the state in `directory`, which is made if it is missing, as is the state file in it.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged state file is refused and left alone.
    pub fn open(directory: &Path) -> Result<EpochStore, OpenError> {
        fs::create_dir_all(directory).map_err(|source| OpenError::MakeDirectory {
            path: directory.to_owned(),
            source,
        })?;
        let lock = lock(directory)?;
        let path = directory.join(STATE_FILE);
        if !fs::exists(&path).map_err(|source| access(&path, source))? {
            create(directory, &path)?;
            log::warn!(
                "{} is new: all virtual machines are at epoch 0",
                path.display()
            );
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| access(&path, source))?;
        let length = file.metadata().map_err(|source| access(&path, source))?;
        if length.len() > MAX_STATE {
            return Err(corrupt(&path, Damage::Oversize));
        }
        let bytes = read_all(&file).map_err(|source| access(&path, source))?;
        rehearse(bytes).map_err(|damage| corrupt(&path, damage))?;

        let opened = FileBackend::new(file).and_then(|file| builder().create_with_backend(file));
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path: path.clone() },
            error => failed(&path, Damage::Database(error.into())),
        })?;
        let store = EpochStore {
            database,
            _lock: Some(lock),
        };
        store.check().map_err(|damage| failed(&path, damage))?;
        Ok(store)
    }

    /// Reads every record, then settles: the process may have died before it settled its last
    /// decision.
    fn check(&self) -> Result<(), Damage> {
        let found = self.format().map_err(|error| error.0)?;
        if !matches!(found, Some(FORMAT | FORMAT_WITH_FLOOR)) {
            return Err(Damage::Format { found });
        }
        self.list(None, usize::MAX).map_err(|error| error.0)?;
        Ok(self.commit_once_more()?)
    }
}

fn access(path: &Path, source: io::Error) -> OpenError {
    OpenError::Access {
        path: path.to_owned(),
        source,
    }
}

/// Of a file whose copy in memory was found sound: an error of the system says nothing else about it.
fn failed(path: &Path, damage: Damage) -> OpenError {
    let path = path.to_owned();
    match damage {
        Damage::Database(redb::Error::Io(source)) => OpenError::Io { path, source },
        Damage::Database(error @ redb::Error::PreviousIo) => OpenError::Io {
            path,
            source: io::Error::other(error),
        },
        source => OpenError::Corrupt { path, source },
    }
}

fn corrupt(path: &Path, source: Damage) -> OpenError {
    OpenError::Corrupt {
        path: path.to_owned(),
        source,
    }
}

/// Locks the state directory against other servers. The lock ends with the process, however that
/// ends.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_FILE);
    let failed = |source| OpenError::Create {
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
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a copy in memory, for two reasons.
///
/// Opening writes to the file, even where it then finds damage, and a damaged file is all that
/// there is to find out from what happened.
///
/// And redb reads pages of a file that was committed in two phases before it has verified them,
/// and panics on what it finds in damaged ones. So the copy says that it was committed in one
/// phase, which makes redb verify first, and that its other commit is invalid, which keeps redb
/// from falling back to it. What then opens is verified, and the file itself can be opened.
fn rehearse(mut bytes: Vec<u8>) -> Result<(), Damage> {
    if bytes.is_empty() {
        return Err(Damage::Empty);
    }
    if bytes.len() < header::LEN {
        return Err(Damage::Cut);
    }
    let flags = bytes[header::FLAGS];
    bytes[header::FLAGS] = flags & !header::TWO_PHASE;
    let other_slot = usize::from(flags & header::SECOND_SLOT_COUNTS == 0);
    let end_of_checksum = header::SLOTS + (other_slot + 1) * header::SLOT_LEN - 1;
    bytes[end_of_checksum] = !bytes[end_of_checksum];

    let memory = InMemoryBackend::new();
    memory
        .set_len(bytes.len() as u64)
        .and_then(|()| memory.write(0, &bytes))
        .map_err(redb::Error::Io)?;
    let database = builder()
        .create_with_backend(memory)
        .map_err(redb::Error::from)?;
    let store = EpochStore {
        database,
        _lock: None,
    };
    store.check()
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_repair_callback(never_roll_back);
    builder
}

/// Makes a complete state file under another name and then gives it its own. A crash leaves no
/// half-made state file.
fn create(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let failed = |source: io::Error| OpenError::Create {
        path: directory.to_owned(),
        source,
    };
    let file = tempfile::Builder::new()
        .prefix("new-")
        .suffix(".redb")
        .tempfile_in(directory)
        .map_err(failed)?;
    let copy = file.as_file().try_clone().map_err(failed)?;
    initialise(copy).map_err(|error| failed(into_io(error)))?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(error.error)),
    }
    // The name is as durable as what it names: of the directory, and of its own name in its parent.
    for directory in [
        Some(directory),
        directory
            .canonicalize()
            .ok()
            .as_deref()
            .and_then(Path::parent),
    ]
    .into_iter()
    .flatten()
    {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

fn initialise(file: File) -> Result<(), redb::Error> {
    let database = builder().create_with_backend(FileBackend::new(file)?)?;
    write_format(&database)
}

/// redb tells the progress of its recovery from a crash. Only before it rolls back to an older
/// commit does it tell 0.3; see the module's documentation for why it must not.
fn never_roll_back(repair: &mut redb::RepairSession) {
    if (0.1..0.5).contains(&repair.progress()) {
        repair.abort();
    }
}

pub(super) fn write_format(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META)?
        .insert(FORMAT_KEY, FORMAT)
        .map_err(redb::Error::from)?;
    transaction.open_table(EPOCHS)?;
    transaction.commit()?;
    Ok(())
}

fn into_io(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
