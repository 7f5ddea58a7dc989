//! A thread that watches something beside a scenario, and keeps a record of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};

/// What a worker's thread and its owner share: the record, and the owner's wishes.
#[derive(Debug, Default)]
pub(crate) struct Desk<R> {
    record: Mutex<R>,
    finish: AtomicBool,
    abandon: AtomicBool,
}

impl<R> Desk<R> {
    /// What was seen up to now.
    pub(crate) fn record(&self) -> MutexGuard<'_, R> {
        self.record.lock()
    }

    /// Whether to begin nothing new, and to look at everything once more.
    pub(crate) fn finishing(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }

    /// Whether to wait for nothing any more.
    pub(crate) fn abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }

    /// Whether there is neither of these wishes.
    pub(crate) fn goes_on(&self) -> bool {
        !self.finishing() && !self.abandoned()
    }
}

/// A thread at work. It is abandoned when this value is dropped.
#[derive(Debug)]
pub(crate) struct Worker<R> {
    desk: Arc<Desk<R>>,
    thread: Option<JoinHandle<()>>,
}

impl<R: Clone + Default + Send + 'static> Worker<R> {
    /// Starts the thread. `work` has to look at the owner's wishes often.
    pub(crate) fn start(work: impl FnOnce(&Desk<R>) + Send + 'static) -> Self {
        let desk = Arc::new(Desk::default());
        let thread = thread::spawn({
            let desk = Arc::clone(&desk);
            move || work(&desk)
        });
        Self {
            desk,
            thread: Some(thread),
        }
    }

    /// What was seen up to now.
    pub(crate) fn record(&self) -> MutexGuard<'_, R> {
        self.desk.record()
    }

    /// Begins nothing new, looks at everything once more, and gives what was seen.
    pub(crate) fn finish(mut self) -> R {
        self.desk.finish.store(true, Ordering::Relaxed);
        self.join();
        self.record().clone()
    }

    /// Waits for nothing any more, and gives what was seen.
    pub(crate) fn abandon(mut self) -> R {
        self.desk.abandon.store(true, Ordering::Relaxed);
        self.join();
        self.record().clone()
    }
}

impl<R> Worker<R> {
    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the message is printed.
            let _ = thread.join();
        }
    }
}

impl<R> Drop for Worker<R> {
    fn drop(&mut self) {
        self.desk.abandon.store(true, Ordering::Relaxed);
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts until it is told to stop, and then notes whether it may look once more.
    fn counter() -> Worker<(u32, bool)> {
        Worker::start(|desk: &Desk<(u32, bool)>| {
            while desk.goes_on() {
                desk.record().0 += 1;
                thread::yield_now();
            }
            desk.record().1 = !desk.abandoned();
        })
    }

    #[test]
    fn a_worker_finishes_or_is_abandoned() {
        let worker = counter();
        while worker.record().0 == 0 {
            thread::yield_now();
        }
        let (count, looked) = worker.finish();
        assert!(count > 0 && looked);
        assert!(!counter().abandon().1);

        let worker = counter();
        let desk = Arc::clone(&worker.desk);
        drop(worker);
        assert!(desk.abandoned());
        assert_eq!(Arc::strong_count(&desk), 1, "the thread has ended");
    }
}
