//! The file under the database, which is left as a crash would leave it.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// A file that takes no more writes once it is frozen.
///
/// A redb database that is closed in order records its free space, and the next open believes that
/// record before it has verified a single page: damage in it was seen to panic. One that crashed is
/// verified from its roots to its leaves, and its free space counted anew, which takes no time for
/// a state as small as ours. So the store never closes in order: it freezes the file, and every
/// open is a verified one. It also means that there is one way of opening and not two, and the one
/// that matters is the one that is always used.
#[derive(Debug)]
pub(super) struct CrashOnly {
    file: FileBackend,
    frozen: Freeze,
}

/// Freezes a [`CrashOnly`] file. Everything committed before is on stable storage.
#[derive(Debug, Clone, Default)]
pub(super) struct Freeze(Arc<AtomicBool>);

impl Freeze {
    pub(super) fn freeze(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl CrashOnly {
    pub(super) fn new(file: File) -> Result<(CrashOnly, Freeze), DatabaseError> {
        let frozen = Freeze::default();
        let backend = CrashOnly {
            file: FileBackend::new(file)?,
            frozen: frozen.clone(),
        };
        Ok((backend, frozen))
    }

    fn writable(&self) -> io::Result<&FileBackend> {
        if self.frozen.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("the state file is closed"));
        }
        Ok(&self.file)
    }
}

type Locked = Result<bool, BackendError>;

impl StorageBackend for CrashOnly {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.query_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
