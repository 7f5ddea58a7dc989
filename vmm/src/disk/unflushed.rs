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
//! A server that tells the number of its start has lost nothing as long as that stays the same, and
//! nothing is made again then.
//!
//! What is kept is bounded: beyond [`OWN_FLUSH_BYTES`] the service flushes by itself, and beyond
//! [`FULL_BYTES`] changes wait for that.
//!
//! A backup keeps the same ([`super::followed`]) and hands it over when it goes live.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::order::{Effect, Extent};
use super::{DiskOp, DiskRequest};

/// Kept data beyond which the service flushes by itself.
pub const OWN_FLUSH_BYTES: u64 = 32 << 20;

/// Kept data beyond which no further change goes out before a flush was answered.
pub const FULL_BYTES: u64 = 64 << 20;

/// What is compared of the number of a server's start, which is random: as much as the log has room
/// for ([`super::followed`]).
pub const BOOT_BITS: u64 = (1 << 62) - 1;

/// What a kept change takes beside its data.
const OVERHEAD_BYTES: u64 = 256;

/// The number of a change among those that were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerNumber(u64);

/// Answered changes that no flush has covered, and flushes under way.
#[derive(Debug, Default)]
pub struct Unflushed {
    /// In the order of their answers.
    kept: VecDeque<Arc<DiskRequest>>,
    /// Number of the first of them.
    first: u64,
    bytes: u64,
    /// Flushes at the server, by the cookie on the connection, and the place up to which each
    /// covers.
    flushes: BTreeMap<u64, u64>,
    repeat: Option<Repeat>,
    /// The number of the server's start under which all of this was made, and whatever a gap is
    /// of. `None` if that is not known, or a flush failed since.
    boot: Option<u64>,
    /// Changes before this place were answered and are not known, and perhaps not flushed.
    gap: Option<u64>,
    /// A change was lost and cannot be made again: the guest's next flush has to fail.
    lost: bool,
}

/// Changes being made again on a new connection.
#[derive(Debug)]
struct Repeat {
    /// Number of the next one to be sent.
    next: u64,
    /// Those at the server.
    out: Vec<(AnswerNumber, Extent)>,
    /// The number of the server's start.
    boot: Option<u64>,
}

fn cost(request: &DiskRequest) -> u64 {
    let data = match &request.op {
        DiskOp::Write { data, .. } => data.len() as u64,
        _ => 0,
    };
    OVERHEAD_BYTES + data
}

impl Unflushed {
    /// Nothing yet, on a server whose start has the number `boot`.
    #[must_use]
    pub fn under(boot: Option<u64>) -> Self {
        Self {
            boot: boot.map(|number| number & BOOT_BITS),
            ..Self::default()
        }
    }

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

    /// Whether a flush is out under this cookie.
    #[must_use]
    pub fn is_flush(&self, cookie: u64) -> bool {
        self.flushes.contains_key(&cookie)
    }

    /// The flush with this cookie was answered, with success or not. Returns the number of the last
    /// change that is forgotten with it.
    pub fn flush_answered(&mut self, cookie: u64, succeeded: bool) -> Option<u64> {
        let covered = self.flushes.remove(&cookie)?;
        if !succeeded {
            self.distrust();
            return None;
        }
        if self.gap.is_some_and(|gap| gap <= covered) {
            self.gap = None;
        }
        self.forget_before(covered)
    }

    fn forget_before(&mut self, place: u64) -> Option<u64> {
        let mut last = None;
        while self.first < place {
            let Some(request) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= cost(&request);
            self.first += 1;
            last = Some(request.id);
        }
        last
    }

    /// Forgets what was answered up to the change with this number. Returns whether that is kept.
    fn forget_through(&mut self, id: u64) -> bool {
        let found = self.kept.iter().position(|request| request.id == id);
        if let Some(at) = found {
            self.forget_before(self.first + at as u64 + 1);
        }
        found.is_some()
    }

    /// All is stable that was answered up to the change with this number.
    pub fn flushed_through(&mut self, id: u64) {
        if self.forget_through(id) {
            // It came after the gap, or it would not be kept.
            self.gap = None;
        }
    }

    /// What was answered up to the change with this number may be lost, and is not remembered.
    pub fn lost_through(&mut self, id: u64) {
        self.forget_through(id);
        self.lose();
    }

    /// Forgets all that is kept, though no flush covers it. Returns the number of the last change.
    pub fn give_up(&mut self) -> Option<u64> {
        let last = self.forget_before(self.end());
        self.lose();
        last
    }

    /// A flush failed: the server may have lost what it answered, whatever the number of its start.
    pub fn distrust(&mut self) {
        self.boot = None;
    }

    /// All that no flush has covered is at the server as it is since this start.
    pub fn trust(&mut self, boot: u64) {
        self.boot = Some(boot & BOOT_BITS);
    }

    /// The number of the server's start since which it has all that no flush has covered, if that is
    /// known.
    #[must_use]
    pub fn boot(&self) -> Option<u64> {
        self.boot
    }

    /// Whether no change was answered that a flush has not covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.gap.is_none()
    }

    /// Changes were answered that are not known. What is kept was made before them, and must not be
    /// made again on top of them.
    pub fn miss(&mut self) {
        self.forget_before(self.end());
        // A place of its own: a flush that was sent before covers up to here, and not this.
        self.first += 1;
        self.gap = Some(self.first);
    }

    /// No flush that was sent by now is of the guest any more.
    pub fn forget_flushes(&mut self) {
        self.flushes.clear();
    }

    /// A change is lost.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether a change is lost, which has to be told; it is not said again.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Whether a change is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
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

    /// There is a new connection, to a server whose start has the number `boot`. Unless it is the
    /// one under which everything was made, all of it is to be made again. Returns how many changes
    /// that are.
    pub fn connected(&mut self, boot: Option<u64>) -> usize {
        self.flushes.clear();
        self.repeat = None;
        let boot = boot.map(|number| number & BOOT_BITS);
        if boot.is_some() && boot == self.boot {
            return 0;
        }
        if self.gap.take().is_some() {
            self.lose();
        }
        // Until it has been made again.
        self.boot = None;
        if self.kept.is_empty() {
            self.boot = boot;
        } else {
            self.repeat = Some(Repeat {
                next: self.first,
                out: Vec::new(),
                boot,
            });
        }
        self.kept.len()
    }

    /// Whether changes are being made again: nothing else may go out meanwhile.
    #[must_use]
    pub fn is_repeating(&self) -> bool {
        self.repeat.is_some()
    }

    /// The next change to be made again, if it may go out now: it must not overtake one that it
    /// overlaps.
    pub fn next_repeat(&mut self) -> Option<(AnswerNumber, Arc<DiskRequest>)> {
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
        let place = AnswerNumber(repeat.next);
        repeat.out.push((place, extent));
        repeat.next += 1;
        Some((place, request.clone()))
    }

    /// A change was made again.
    pub fn repeated(&mut self, place: AnswerNumber) {
        let end = self.end();
        if let Some(repeat) = &mut self.repeat {
            repeat.out.retain(|(out, _)| *out != place);
            if repeat.out.is_empty() && repeat.next == end {
                self.boot = repeat.boot;
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
        unflushed.connected(None);
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
        unflushed.connected(None);
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

    #[test]
    fn a_server_that_did_not_start_anew_has_lost_nothing() {
        let mut unflushed = Unflushed::under(Some(1));
        unflushed.answered(write(1, 0, 10));
        assert_eq!(unflushed.connected(Some(1)), 0);
        assert!(!unflushed.is_repeating());
        assert_eq!(unflushed.connected(Some(2)), 1);
        // Only what has been made again was made under the new start.
        assert_eq!(unflushed.connected(Some(2)), 1);
        let (place, _) = unflushed.next_repeat().unwrap();
        unflushed.repeated(place);
        assert_eq!(unflushed.connected(Some(2)), 0);
        unflushed.flush_sent(1);
        unflushed.flush_answered(1, false);
        assert_eq!(unflushed.connected(Some(2)), 1, "a flush failed");
        assert_eq!(unflushed.connected(None), 1, "it does not say");
    }

    #[test]
    fn what_is_not_known_is_missed_only_where_it_may_be_lost() {
        let with_gap = || {
            let mut unflushed = Unflushed::under(Some(1));
            unflushed.answered(write(1, 0, 10));
            unflushed.flush_sent(100);
            unflushed.miss();
            unflushed.answered(write(3, 0, 10));
            unflushed
        };
        let mut same = with_gap();
        assert_eq!(same.connected(Some(1)), 0);
        assert!(!same.is_lost());
        let mut anew = with_gap();
        assert_eq!(
            anew.connected(Some(2)),
            1,
            "1 must not overwrite what came after it"
        );
        assert!(anew.take_lost() && !anew.is_lost());
        // A flush from before the gap does not cover it; one from after it does, and so does one of
        // the primary's own that covers what was answered after it.
        let mut early = with_gap();
        early.flush_answered(100, true);
        early.connected(Some(2));
        assert!(early.is_lost());
        let mut late = with_gap();
        late.flush_sent(101);
        late.flush_answered(101, true);
        late.connected(Some(2));
        assert!(!late.is_lost());
        let mut own = with_gap();
        own.flushed_through(1);
        own.flushed_through(3);
        assert_eq!(own.connected(Some(2)), 0);
        assert!(!own.is_lost());
    }
}
