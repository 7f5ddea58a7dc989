//! Guest memory on its way beside the log, in a transfer of the whole state: threads of this host read and
//! send it while the guest runs ([`MemorySender`]), and threads of the other host put it where it belongs
//! ([`MemoryTaker`]).
//!
//! Each page belongs to one stream, so that what is sent of it later arrives later.

mod block;
mod limit;
mod sending;
mod taking;

pub use limit::Limit;
pub use sending::{MemorySender, Progress, Round, SendBlocks, Waited};
pub use taking::MemoryTaker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::baseline::{ZERO, hash};

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

#[cfg(test)]
mod tests;
