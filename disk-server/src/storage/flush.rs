//! Flushes that do not forget a failure, and that many clients share.

use std::io;

use parking_lot::{Condvar, Mutex};

use super::Storage;

/// Why a flush failed, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "what was written did not reach the disk ({reason}); the server ends, because no later flush could be believed"
)]
pub struct FlushError {
    reason: String,
}

/// A storage with flushes in order.
///
/// **A failure is final.** Linux reports an error of writing back once, marks the pages clean, and
/// the next fsync succeeds though the data is gone. So after one failure every flush fails. Whoever
/// owns this ends the server: the next one starts without that data, and its clients can see that
/// it is another one, and repeat what they wrote and did not flush.
///
/// **One at a time, and shared.** Two fdatasync at a time would each report half of the truth: the
/// error goes to one of them only. And whoever asks while one runs needs one that starts later,
/// which can be the same one for all who wait.
#[derive(Debug)]
pub struct Flushed {
    storage: Box<dyn Storage>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Flushes that were started.
    started: u64,
    /// The last one that ended well.
    done: u64,
    running: bool,
    failed: Option<FlushError>,
}

impl Flushed {
    /// A storage that has not failed yet.
    #[must_use]
    pub fn new(storage: Box<dyn Storage>) -> Flushed {
        Flushed {
            storage,
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// The storage, for everything but flushes.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Brings everything that was done before this call to stable storage.
    ///
    /// # Errors
    /// [`FlushError`]: this time, or some time before.
    pub fn flush(&self) -> Result<(), FlushError> {
        let mut state = self.state.lock();
        // A flush that already runs may have passed by what this caller wrote.
        let needed = state.started + 1;
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.done >= needed {
                return Ok(());
            }
            if state.running {
                self.ended.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let number = state.started;
            drop(state);
            let result = self.storage.flush();
            state = self.state.lock();
            state.running = false;
            match result {
                Ok(()) => state.done = number,
                Err(error) => state.failed = Some(failure(&error)),
            }
            self.ended.notify_all();
        }
    }

    /// Whether a flush has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state.lock().failed.is_some()
    }
}

fn failure(error: &io::Error) -> FlushError {
    FlushError {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::super::{Allocation, Zeroing};
    use super::*;

    /// Counts writes, and how many of them a flush covers that began after them.
    #[derive(Debug, Default)]
    struct Counting {
        written: AtomicU64,
        flushed: AtomicU64,
        flushes: AtomicU64,
        at_a_time: AtomicU64,
        fails_from: u64,
    }

    #[derive(Debug)]
    struct Shared(Arc<Counting>);

    impl Storage for Shared {
        fn size(&self) -> u64 {
            0
        }

        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn zero(&self, _: u64, _: u64, _: Zeroing) -> io::Result<()> {
            Ok(())
        }

        fn discard(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            assert_eq!(self.0.at_a_time.fetch_add(1, Ordering::SeqCst), 0);
            let covered = self.0.written.load(Ordering::SeqCst);
            thread::yield_now();
            let number = self.0.flushes.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.at_a_time.fetch_sub(1, Ordering::SeqCst);
            if number == self.0.fails_from {
                return Err(io::Error::other("the disk is broken"));
            }
            self.0.flushed.fetch_max(covered, Ordering::SeqCst);
            Ok(())
        }

        fn allocations(&self, _: u64, _: u64, _: usize) -> io::Result<Vec<Allocation>> {
            Ok(Vec::new())
        }

        fn prefetch(&self, _: u64, _: u64) {}
    }

    #[test]
    fn flushes_are_shared_and_cover_what_came_before() {
        const THREADS: u64 = 8;
        const EACH: u64 = 300;
        let counting = Arc::new(Counting::default());
        let flushed = Flushed::new(Box::new(Shared(Arc::clone(&counting))));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        let mine = counting.written.fetch_add(1, Ordering::SeqCst) + 1;
                        flushed.flush().unwrap();
                        assert!(counting.flushed.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(counting.flushes.load(Ordering::SeqCst) <= THREADS * EACH);
    }

    #[test]
    fn after_a_failure_nobody_is_told_that_all_is_well() {
        let counting = Arc::new(Counting {
            fails_from: 3,
            ..Counting::default()
        });
        let flushed = Flushed::new(Box::new(Shared(Arc::clone(&counting))));
        flushed.flush().unwrap();
        flushed.flush().unwrap();
        assert!(!flushed.has_failed());
        let error = flushed.flush().unwrap_err();
        assert!(error.to_string().contains("the disk is broken"), "{error}");
        assert_eq!(flushed.flush(), Err(error));
        assert!(flushed.has_failed());
        assert_eq!(counting.flushes.load(Ordering::SeqCst), 3);
    }
}
