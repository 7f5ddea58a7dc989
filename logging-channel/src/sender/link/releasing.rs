//! Outputs leave on the thread that reads their acknowledgement.

use std::fmt;
use std::sync::OnceLock;

use super::Shared;
use crate::entry::Lsn;
use crate::sender::Release;

/// What to call at an acknowledgement.
#[derive(Default)]
pub(in crate::sender) struct Releasing(OnceLock<Release>);

impl Releasing {
    pub(in crate::sender) fn set(&self, release: Release) {
        let _ = self.0.set(release);
    }

    fn call(&self, acked: Lsn) -> Option<Lsn> {
        self.0.get()?(acked)
    }
}

impl fmt::Debug for Releasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.get().is_some();
        f.debug_tuple("Releasing").field(&set).finish()
    }
}

impl Shared {
    /// Lets out what waited for entries up to `acked`.
    pub(in crate::sender) fn release(&self, acked: Lsn) {
        if let Some(lsn) = self.releasing.call(acked) {
            self.note_released(lsn);
        }
    }
}
