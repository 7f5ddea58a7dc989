//! The memory that payloads may take, for all connections together.

use std::sync::{Condvar, Mutex, PoisonError};

/// A number of bytes to be shared, first come, first served.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// The number for the next who asks.
    next: u64,
    /// Whose turn it is. Without turns small requests would keep a large one waiting for ever.
    turn: u64,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Budget {
        Budget {
            total,
            state: Mutex::new(State {
                free: total,
                next: 0,
                turn: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for a share. Whoever waits must hold nothing that others wait for. More than there is
    /// in all counts as all.
    pub(crate) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.total);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        while state.turn != number || state.free < bytes {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.free -= bytes;
        self.changed.notify_all();
        Share {
            budget: self,
            bytes,
        }
    }
}

/// Some of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut state = self
            .budget
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.free += self.bytes;
        self.budget.changed.notify_all();
    }
}
