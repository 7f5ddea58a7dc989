//! Wakes the thread that takes messages from channels.
//!
//! A channel's own blocking receive spins and yields before it sleeps. That is meant for messages that
//! come within microseconds from another processor. The guest's thread waits at every halt of the
//! guest, mostly for milliseconds, and on a host with one processor what it waits for cannot happen
//! while it spins: there a wait costs several hundred `pause` instructions and eight switches to
//! other threads and back. So messages go through channels, and waiting is done here.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::sync::{Parker, Unparker};
use parking_lot::Mutex;

/// A bell that one thread at a time waits for. A handle.
///
/// A ring is not lost: if nobody waits, the next wait ends at once. Several may end one wait, and a
/// wait may end for messages that were taken already, so whoever waits looks at its channels in a
/// loop.
#[derive(Debug, Clone)]
pub struct Bell {
    parker: Arc<Mutex<Parker>>,
    unparker: Unparker,
}

impl Default for Bell {
    fn default() -> Self {
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        Self {
            parker: Arc::new(Mutex::new(parker)),
            unparker,
        }
    }
}

impl Bell {
    /// Ends the wait that is under way, or the next one.
    pub fn ring(&self) {
        self.unparker.unpark();
    }

    /// Waits for a ring, at most until `deadline`.
    pub fn wait(&self, deadline: Option<Instant>) {
        let parker = self.parker.lock();
        match deadline {
            Some(deadline) => parker.park_deadline(deadline),
            None => parker.park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_ends_it() {
        let bell = Bell::default();
        bell.clone().ring();
        bell.ring();
        bell.wait(None);
    }

    #[test]
    fn a_ring_ends_a_wait_that_is_under_way() {
        let bell = Bell::default();
        let (told, asked) = crossbeam_channel::bounded(0);
        let waiter = std::thread::spawn({
            let bell = bell.clone();
            move || {
                told.send(()).expect("somebody listens");
                bell.wait(None);
            }
        });
        asked.recv().expect("the thread began");
        bell.ring();
        waiter.join().expect("it ended");
    }

    #[test]
    fn a_deadline_ends_a_wait() {
        let bell = Bell::default();
        let deadline = Instant::now() + Duration::from_millis(2);
        bell.wait(Some(deadline));
        assert!(Instant::now() >= deadline);
    }
}
