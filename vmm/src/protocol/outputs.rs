//! Outputs that wait for their permit, in order; and what a backup keeps of those that may not have left.

use std::collections::VecDeque;
use std::time::Instant;

use logging_channel::entry::Lsn;
use logging_channel::sender::Permit;

/// Outputs of a guest that have not left, each with the entry that has to be committed before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

    /// Nothing leaves any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
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

/// Outputs kept at most. The primary reports what it released several times a second; beyond this
/// many the oldest are forgotten, and the guest's own retransmission makes up for them.
const KEPT: usize = 256;

/// Outputs that the primary may not have let out before it is lost.
///
/// An output whose log entry was acknowledged has happened for the guest, but whether it left the
/// primary is not known. A backup that goes live lets such ones out again.
#[derive(Debug)]
pub struct UnreleasedOutputs<T>(VecDeque<(Lsn, T)>);

impl<T> Default for UnreleasedOutputs<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> UnreleasedOutputs<T> {
    /// Keeps the output of an entry that was executed.
    pub fn keep(&mut self, lsn: Lsn, output: T) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((lsn, output));
    }

    /// Forgets those up to `released`.
    pub fn forget(&mut self, released: Lsn) {
        while self.0.front().is_some_and(|(lsn, _)| *lsn <= released) {
            self.0.pop_front();
        }
    }

    /// Takes those after `released`, oldest first.
    pub fn take(&mut self, released: Lsn) -> impl Iterator<Item = T> {
        self.forget(released);
        self.0.drain(..).map(|(_, output)| output)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn outputs_leave_in_order_by_a_permit_that_holds() {
        let now = Instant::now();
        let mut held = HeldOutputs::default();
        held.hold(Lsn(3), "first");
        // Without an entry of its own.
        held.hold(Lsn(0), "second");
        let permit = |up_to, until| Permit {
            up_to: Lsn(up_to),
            until,
        };
        assert_eq!(held.next(permit(2, None), now), None);
        let late = Some(now - Duration::from_millis(1));
        assert_eq!(held.next(permit(3, late), now), None);
        assert_eq!(
            held.next(permit(3, Some(now)), now),
            Some((Lsn(3), "first"))
        );
        assert_eq!(held.next(permit(3, None), now), Some((Lsn(0), "second")));
        held.hold(Lsn(4), "third");
        held.close();
        held.hold(Lsn(5), "fourth");
        assert_eq!(held.next(permit(9, None), now), None);
    }

    #[test]
    fn a_backup_keeps_few_of_those_that_were_not_released() {
        let mut kept = UnreleasedOutputs::default();
        for n in 1..=5 {
            kept.keep(Lsn(n * 10), n);
        }
        assert_eq!(kept.take(Lsn(30)).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(kept.take(Lsn(0)).count(), 0);
        for n in 0..2 * KEPT as u64 {
            kept.keep(Lsn(n), n);
        }
        assert_eq!(kept.take(Lsn(0)).next(), Some(KEPT as u64));
    }
}
