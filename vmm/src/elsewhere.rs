//! Values that take long to drop.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::thread;

use confinement::Calls;

/// Dropped on a thread of its own: for what the guest's thread is done with and must not wait for,
/// as threads that end and gigabytes that are unmapped.
#[derive(Debug)]
pub struct DroppedElsewhere<T: Send + 'static>(ManuallyDrop<T>);

impl<T: Send + 'static> DroppedElsewhere<T> {
    /// `value`, whose drop nobody waits for.
    pub fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T: Send + 'static> Deref for DroppedElsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + 'static> DerefMut for DroppedElsewhere<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Send + 'static> Drop for DroppedElsewhere<T> {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and nobody uses it afterwards.
        let value = unsafe { ManuallyDrop::take(&mut self.0) };
        let dropping = thread::Builder::new().name("dropping".into());
        // Without another thread it is dropped with the closure, where that was to be started. A cold backup's log
        // is files.
        let _ = confinement::spawn(dropping, &[Calls::Files], move || drop(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    struct Told(Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn it_is_dropped_once_by_another_thread() {
        let (sender, receiver) = channel();
        drop(DroppedElsewhere::new(Told(sender)));
        let dropped_by = receiver.recv_timeout(Duration::from_secs(60));
        assert_ne!(dropped_by.expect("dropped"), thread::current().id());
        assert!(receiver.recv().is_err(), "dropped twice");
    }
}
