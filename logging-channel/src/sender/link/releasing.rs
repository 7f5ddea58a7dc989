//! Outputs leave on the thread that reads their acknowledgement.

use std::fmt;
use std::sync::OnceLock;

use crate::entry::Lsn;
use crate::protocol::Permit;

/// Lets out what may leave. Returns the last entry whose output has left this host by that, if there
/// is one ([`Sender::released`](crate::sender::Sender::released)).
pub type Release = Box<dyn Fn(Permit) -> Option<Lsn> + Send + Sync>;

/// What to call at an acknowledgement.
#[derive(Default)]
pub(in crate::sender) struct Releasing(OnceLock<Release>);

impl Releasing {
    pub(in crate::sender) fn set(&self, release: Release) {
        let _ = self.0.set(release);
    }

    pub(super) fn call(&self, permit: Permit) -> Option<Lsn> {
        self.0.get()?(permit)
    }
}

impl fmt::Debug for Releasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.get().is_some();
        f.debug_tuple("Releasing").field(&set).finish()
    }
}
