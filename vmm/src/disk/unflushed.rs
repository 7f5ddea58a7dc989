//! What the server may still lose: changes of the disk that it answered, and that no flush has
//! covered yet.
//!
//! A disk has a cache, and a guest knows that what it did not flush is lost with the power. But a
//! guest that loses the disk's cache loses its own with it: the power is the same. Here it is not.
//! The disk server can lose its power and come back while the guest goes on, and a flush that the
//! guest asks for after that has to cover what it wrote before. So those changes are kept here and
//! made again on every new connection. (NFS clients do the same with unstable writes: RFC 1813,
//! section 3.3.21, write verifier.)
//!
//! What is kept is bounded: beyond [`OWN_FLUSH_BYTES`] the service flushes by itself, and beyond
//! [`FULL_BYTES`] changes wait for that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::order::{Effect, Extent};
use super::{DiskOp, DiskRequest};

/// Kept data beyond which the service flushes by itself.
pub const OWN_FLUSH_BYTES: u64 = 32 << 20;

/// Kept data beyond which no further change goes out before a flush was answered.
pub const FULL_BYTES: u64 = 64 << 20;

/// What a kept change takes beside its data.
const OVERHEAD_BYTES: u64 = 256;

/// A change's place among those that were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// Answered changes that no flush has covered, and flushes under way.
#[derive(Debug, Default)]
pub struct Unflushed {
    /// In the order of their answers.
    kept: VecDeque<Arc<DiskRequest>>,
    /// Place of the first of them.
    first: u64,
    bytes: u64,
    /// Flushes at the server, by the cookie on the connection, and the place up to which each
    /// covers.
    flushes: BTreeMap<u64, u64>,
    repeat: Option<Repeat>,
}

/// Changes being made again on a new connection.
#[derive(Debug)]
struct Repeat {
    /// Place of the next one to be sent.
    next: u64,
    /// Those at the server.
    out: Vec<(Place, Extent)>,
}

fn cost(request: &DiskRequest) -> u64 {
    let data = match &request.op {
        DiskOp::Write { data, .. } => data.len() as u64,
        _ => 0,
    };
    OVERHEAD_BYTES + data
}

impl Unflushed {
    /// The server answered this change.
    pub fn answered(&mut self, request: Arc<DiskRequest>) {
        self.bytes += cost(&request);
        self.kept.push_back(request);
    }

    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// A flush goes out under this cookie: it covers what was answered by now.
    pub fn flush_sent(&mut self, cookie: u64) {
        self.flushes.insert(cookie, self.end());
    }

    /// The flush with this cookie was answered, with success or not.
    pub fn flush_answered(&mut self, cookie: u64, succeeded: bool) {
        let Some(covered) = self.flushes.remove(&cookie) else {
            return;
        };
        while succeeded && self.first < covered {
            let Some(request) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= cost(&request);
            self.first += 1;
        }
    }

    /// Whether the service should flush by itself.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.bytes > OWN_FLUSH_BYTES && self.flushes.is_empty() && self.repeat.is_none()
    }

    /// Whether changes have to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes > FULL_BYTES
    }

    /// There is a new connection: everything kept is to be made again on it.
    pub fn begin_repeat(&mut self) {
        self.flushes.clear();
        self.repeat = (!self.kept.is_empty()).then(|| Repeat {
            next: self.first,
            out: Vec::new(),
        });
    }

    /// Whether changes are being made again: nothing else may go out meanwhile.
    #[must_use]
    pub fn is_repeating(&self) -> bool {
        self.repeat.is_some()
    }

    /// The next change to be made again, if it may go out now: it must not overtake one that it
    /// overlaps.
    pub fn next_repeat(&mut self) -> Option<(Place, Arc<DiskRequest>)> {
        let end = self.end();
        let repeat = self.repeat.as_mut()?;
        if repeat.next == end {
            return None;
        }
        let request = self.kept.get((repeat.next - self.first) as usize)?;
        let extent = Effect::of(&request.op).extent();
        if repeat.out.iter().any(|(_, out)| out.overlaps(extent)) {
            return None;
        }
        let place = Place(repeat.next);
        repeat.out.push((place, extent));
        repeat.next += 1;
        Some((place, request.clone()))
    }

    /// A change was made again.
    pub fn repeated(&mut self, place: Place) {
        let end = self.end();
        if let Some(repeat) = &mut self.repeat {
            repeat.out.retain(|(out, _)| *out != place);
            if repeat.out.is_empty() && repeat.next == end {
                self.repeat = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, offset: u64, len: usize) -> Arc<DiskRequest> {
        Arc::new(DiskRequest {
            id,
            op: DiskOp::Write {
                offset,
                data: vec![0; len],
            },
        })
    }

    /// Makes everything again; returns the ids in the order in which they went out.
    fn repeat_all(unflushed: &mut Unflushed) -> Vec<u64> {
        unflushed.begin_repeat();
        let mut ids = Vec::new();
        while unflushed.is_repeating() {
            let mut out = Vec::new();
            while let Some((place, request)) = unflushed.next_repeat() {
                ids.push(request.id);
                out.push(place);
            }
            assert!(!out.is_empty(), "stuck");
            for place in out.into_iter().rev() {
                unflushed.repeated(place);
            }
        }
        ids
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_sent() {
        let mut unflushed = Unflushed::default();
        unflushed.answered(write(1, 0, 10));
        unflushed.flush_sent(100);
        unflushed.answered(write(2, 0, 10));
        unflushed.flush_answered(100, true);
        assert_eq!(repeat_all(&mut unflushed), [2]);
        unflushed.flush_sent(101);
        unflushed.flush_answered(101, true);
        assert!(repeat_all(&mut unflushed).is_empty());
        assert_eq!(unflushed.bytes, 0);
    }

    #[test]
    fn a_flush_that_failed_or_was_lost_covers_nothing() {
        let mut unflushed = Unflushed::default();
        unflushed.answered(write(1, 0, 10));
        unflushed.flush_sent(100);
        unflushed.flush_answered(100, false);
        unflushed.flush_sent(101);
        assert_eq!(repeat_all(&mut unflushed), [1]);
        unflushed.flush_answered(101, true);
        assert_eq!(repeat_all(&mut unflushed), [1]);
    }

    #[test]
    fn what_overlaps_is_made_again_in_its_order() {
        let mut unflushed = Unflushed::default();
        unflushed.answered(write(1, 0, 10));
        unflushed.answered(write(2, 20, 10));
        unflushed.answered(write(3, 5, 10));
        unflushed.answered(write(4, 0, 40));
        unflushed.begin_repeat();
        let mut next = || unflushed.next_repeat().map(|(place, r)| (place, r.id));
        let (first, _) = next().unwrap();
        assert_eq!(next().unwrap().1, 2);
        assert_eq!(next(), None, "3 overlaps 1");
        unflushed.repeated(first);
        assert_eq!(unflushed.next_repeat().unwrap().1.id, 3);
        assert!(unflushed.next_repeat().is_none(), "4 overlaps 2 and 3");
        assert_eq!(repeat_all(&mut unflushed), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut unflushed = Unflushed::default();
        let big = OWN_FLUSH_BYTES as usize;
        assert!(!unflushed.wants_flush());
        unflushed.answered(write(1, 0, big));
        assert!(unflushed.wants_flush() && !unflushed.is_full());
        unflushed.flush_sent(7);
        assert!(!unflushed.wants_flush(), "one is on its way");
        unflushed.answered(write(2, 0, big));
        assert!(unflushed.is_full());
        unflushed.flush_answered(7, true);
        assert!(!unflushed.is_full() && unflushed.wants_flush());
    }
}
