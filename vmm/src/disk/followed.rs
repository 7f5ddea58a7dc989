//! What a backup knows of its guest's disk: the primary's memory of what the server may still lose
//! ([`super::unflushed`]), kept from the log and the guest's requests.
//!
//! When a request is replayed it was issued; when its completion is, the server had answered it
//! before. So what the guest's flush covers here is some of what it covered there, in the same
//! order, and what is kept is at least what the primary had to keep: a little more, which does no
//! harm. What the primary alone knows is in the log under numbers that no request has
//! ([`DiskNotice`]).
//!
//! A backup that is there from the guest's begin opens the disk before the first change, and reads the
//! number of the server's start then. If it is still the same when this host goes live, nothing has
//! been lost. One that joins later does not know what the server had lost by then, and takes
//! everything for lost that came before, until the primary has told it since which start the server
//! has that.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::unflushed::{BOOT_BITS, FULL_BYTES, Unflushed};
use super::{DiskCompletion, DiskError, DiskOp, DiskRequest};

/// What the log says of the disk that is no completion of a request: what the primary alone knows of
/// the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskNotice {
    /// The primary flushed by itself: all is stable that was answered up to the completion of this
    /// request.
    Stable(u64),
    /// Whatever no flush has covered is at the server as it is since the start with this number, of
    /// which these are the lower 62 bits.
    Since(u64),
    /// The server may have lost what no flush has covered, and has not been given all of it again.
    Doubt,
    /// What was answered up to the completion of this request may be lost, and the primary does not
    /// remember it any more.
    GivenUp(u64),
    /// A change is lost: the guest's next flush fails.
    Lost,
}

impl DiskNotice {
    /// Set in the number of a completion that is none of a request; those do not reach it.
    const MARK: u64 = 1 << 63;

    /// Set where the rest of the number is none of a request.
    const NO_REQUEST: u64 = 1 << 62;

    /// As a completion, which the guest does not wait for.
    #[must_use]
    pub fn completion(self) -> DiskCompletion {
        let (id, result) = match self {
            Self::Stable(id) => (id, Ok(Vec::new())),
            Self::Since(boot) => (Self::NO_REQUEST | boot & BOOT_BITS, Ok(Vec::new())),
            Self::Doubt => (0, Err(DiskError::Io)),
            Self::GivenUp(id) => (id, Err(DiskError::Io)),
            Self::Lost => (Self::NO_REQUEST, Err(DiskError::Io)),
        };
        DiskCompletion::new(Self::MARK | id, result)
    }

    /// What a completion says, if it is none of a request.
    #[must_use]
    pub fn of(id: u64, succeeded: bool) -> Option<Self> {
        if id & Self::MARK == 0 {
            return None;
        }
        let of_request = id & Self::NO_REQUEST == 0;
        Some(match (succeeded, of_request, id & BOOT_BITS) {
            (true, true, request) => Self::Stable(request),
            (true, false, boot) => Self::Since(boot),
            (false, true, 0) => Self::Doubt,
            (false, true, request) => Self::GivenUp(request),
            (false, false, _) => Self::Lost,
        })
    }
}

#[derive(Debug)]
struct State {
    /// Reads and changes without a completion.
    open: BTreeMap<u64, Arc<DiskRequest>>,
    unflushed: Unflushed,
}

/// Follows a guest's disk. A handle.
#[derive(Debug, Clone)]
pub struct Followed(Arc<Mutex<State>>);

impl Followed {
    /// Of a guest that has changed nothing since the server's start had the number `boot`.
    #[must_use]
    pub fn new(boot: Option<u64>) -> Self {
        Self(Arc::new(Mutex::new(State {
            open: BTreeMap::new(),
            unflushed: Unflushed::under(boot),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// The guest issued a request.
    pub fn issued(&self, request: DiskRequest) {
        let mut state = self.lock();
        if request.op == DiskOp::Flush {
            state.unflushed.flush_sent(request.id);
        } else {
            state.open.insert(request.id, Arc::new(request));
        }
    }

    /// The log has the completion of the request with this number.
    pub fn completed(&self, id: u64, succeeded: bool) {
        let State { open, unflushed } = &mut *self.lock();
        if let Some(notice) = DiskNotice::of(id, succeeded) {
            return match notice {
                DiskNotice::Stable(id) => unflushed.flushed_through(id),
                DiskNotice::Since(boot) => unflushed.trust(boot),
                DiskNotice::Doubt => unflushed.distrust(),
                DiskNotice::GivenUp(id) => unflushed.lost_through(id),
                DiskNotice::Lost => unflushed.lose(),
            };
        }
        if unflushed.is_flush(id) {
            unflushed.flush_answered(id, succeeded);
            if !succeeded {
                // The guest is told with it.
                unflushed.take_lost();
            }
            return;
        }
        match open.remove(&id) {
            Some(request) if request.op.modifies() && succeeded => {
                unflushed.answered(request);
                // The primary keeps less. But it may be another one some day, or in error.
                if unflushed.bytes() > 2 * FULL_BYTES {
                    unflushed.miss();
                }
            }
            Some(_) => {}
            // Issued before the state came that this guest goes on with.
            None => unflushed.miss(),
        }
    }

    /// The guest was given the primary's state: what it did before is not what the primary's did.
    pub fn repaired(&self) {
        let State { open, unflushed } = &mut *self.lock();
        open.clear();
        unflushed.forget_flushes();
        unflushed.miss();
    }

    /// The guest was given the state of a primary's that had gone on without this host: what the server
    /// lost in that time is not known here.
    pub fn joined(&self) {
        self.repaired();
        self.lock().unflushed.distrust();
    }

    /// What the server may still lose, for the service of the host that goes live. Requests without
    /// a completion are issued again anyway.
    #[must_use]
    pub fn take(&self) -> Unflushed {
        let mut state = self.lock();
        state.open.clear();
        std::mem::take(&mut state.unflushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64) -> DiskRequest {
        DiskRequest {
            id,
            op: DiskOp::Write {
                offset: id * 512,
                data: vec![0; 512],
            },
        }
    }

    fn flush(id: u64) -> DiskRequest {
        DiskRequest {
            id,
            op: DiskOp::Flush,
        }
    }

    /// The changes that a host that goes live makes again, and whether its guest's next flush fails.
    fn again(followed: &Followed) -> (Vec<u64>, bool) {
        let mut unflushed = followed.take();
        unflushed.connected(None);
        let mut ids = Vec::new();
        while let Some((_, request)) = unflushed.next_repeat() {
            ids.push(request.id);
        }
        (ids, unflushed.is_lost())
    }

    fn following(ids: impl IntoIterator<Item = u64>) -> Followed {
        let followed = Followed::new(Some(1));
        for id in ids {
            followed.issued(write(id));
            followed.completed(id, true);
        }
        followed
    }

    #[test]
    fn notices_survive_the_log() {
        for notice in [
            DiskNotice::Stable(7),
            DiskNotice::Since(0),
            DiskNotice::Since(u64::MAX >> 2),
            DiskNotice::Doubt,
            DiskNotice::GivenUp(7),
            DiskNotice::Lost,
        ] {
            let completion = notice.completion();
            let back = DiskNotice::of(completion.id, completion.result.is_ok());
            assert_eq!(back, Some(notice));
        }
        assert_eq!(DiskNotice::of(7, true), None);
        assert_eq!(DiskNotice::of(u64::MAX / 2, false), None);
    }

    #[test]
    fn what_the_guest_flushed_is_forgotten() {
        let followed = following(1..=2);
        followed.issued(write(3));
        followed.issued(flush(4));
        followed.completed(3, true);
        followed.completed(4, true);
        followed.issued(write(5));
        followed.issued(write(6));
        followed.completed(6, false);
        assert_eq!(again(&followed), (vec![3], false));
    }

    #[test]
    fn what_the_primary_flushed_by_itself_is_forgotten() {
        let followed = following(1..=4);
        let own = |notice: DiskNotice| {
            let completion = notice.completion();
            followed.completed(completion.id, completion.result.is_ok());
        };
        own(DiskNotice::Stable(2));
        own(DiskNotice::Stable(1));
        own(DiskNotice::Doubt);
        assert_eq!(again(&followed), (vec![3, 4], false));
    }

    #[test]
    fn what_the_primary_lost_is_told_by_one_of_the_two_hosts() {
        let lost = || {
            let followed = following(1..=4);
            let completion = DiskNotice::GivenUp(3).completion();
            followed.completed(completion.id, completion.result.is_ok());
            followed.issued(flush(5));
            followed
        };
        assert_eq!(again(&lost()), (vec![4], true));
        let told = lost();
        told.completed(5, false);
        assert_eq!(again(&told), (vec![4], false));
    }

    #[test]
    fn after_a_repair_only_what_came_since_is_made_again() {
        let followed = following(1..=2);
        followed.issued(flush(3));
        followed.repaired();
        // Of the time before: this backup's guest may have meant something else by its number.
        followed.completed(3, true);
        followed.completed(4, true);
        followed.issued(write(7));
        followed.completed(7, true);
        assert_eq!(again(&followed), (vec![7], true));

        let followed = following(1..=2);
        followed.repaired();
        followed.issued(flush(7));
        followed.completed(7, true);
        assert_eq!(again(&followed), (vec![], false));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let followed = Followed::new(Some(1));
        for id in 0..200 {
            let data = vec![0; 1 << 20];
            let op = DiskOp::Write { offset: 0, data };
            followed.issued(DiskRequest { id, op });
            followed.completed(id, true);
        }
        assert!(followed.lock().unflushed.bytes() <= 2 * FULL_BYTES);
    }
}
