//! Locks that go on after a panic elsewhere.

use std::sync::{LockResult, PoisonError};

/// The guard of a lock, whether or not a thread panicked while it held it. The data behind this
/// crate's locks is consistent between any two statements, and the panic was reported where it
/// happened: that the peer then sees the session end is better than a second panic.
pub(crate) fn unpoisoned<G>(lock: LockResult<G>) -> G {
    lock.unwrap_or_else(PoisonError::into_inner)
}
