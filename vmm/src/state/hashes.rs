//! What is known of each page of guest memory: a hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh64::xxh64;

use crate::ram::PAGE;

pub(super) static ZERO: [u8; PAGE] = [0; PAGE];

pub(super) const IN_MEMORY: &str = "a page of guest memory";

/// The hash of a page: of natural contents no two are the same. A guest that makes two of them takes its
/// own protection away, and nobody else's.
pub(super) fn hash(content: &[u8; PAGE]) -> u64 {
    xxh64(content, 0)
}

/// A hash of each page, as the other side has it or is to get it.
#[derive(Debug, Clone)]
pub(super) struct Hashes(Arc<Vec<AtomicU64>>);

impl Hashes {
    /// Those of `pages` pages of zeros.
    pub(super) fn of_zeros(pages: u64) -> Result<Self, std::collections::TryReserveError> {
        let mut hashes = Vec::new();
        hashes.try_reserve_exact(pages as usize)?;
        let zero = hash(&ZERO);
        hashes.extend((0..pages).map(|_| AtomicU64::new(zero)));
        Ok(Self(Arc::new(hashes)))
    }

    pub(super) fn get(&self, page: u64) -> u64 {
        self.0[page as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, page: u64, hash: u64) {
        self.0[page as usize].store(hash, Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        let zero = hash(&ZERO);
        for hash in &*self.0 {
            hash.store(zero, Ordering::Relaxed);
        }
    }
}
