//! Outputs that wait for their permit, in order.

use std::collections::VecDeque;
use std::time::Instant;

use logging_channel::entry::Lsn;
use logging_channel::sender::Permit;

/// Outputs of a guest that have not left, each with the entry that has to be committed before.
#[derive(Debug)]
pub struct HeldOutputs<T> {
    held: VecDeque<(Lsn, T)>,
    closed: bool,
}

impl<T> Default for HeldOutputs<T> {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            closed: false,
        }
    }
}

impl<T> HeldOutputs<T> {
    /// Takes an output, unless nothing leaves any more.
    pub fn hold(&mut self, lsn: Lsn, output: T) {
        if !self.closed {
            self.held.push_back((lsn, output));
        }
    }

    /// The next output that may leave by `permit`, now. To be asked for each: this process may stand
    /// still between any two.
    pub fn next(&mut self, permit: Permit, now: Instant) -> Option<(Lsn, T)> {
        let (lsn, _) = self.held.front()?;
        if *lsn > permit.up_to || !permit.holds(now) {
            return None;
        }
        self.held.pop_front()
    }

    /// Nothing may leave any more.
    pub fn close(&mut self) {
        self.closed = true;
        self.held.clear();
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// None waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
