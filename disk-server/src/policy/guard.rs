//! The policy for the threads of a server: what it denies is counted, and told in the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Act, Caller, Definitions, Denied, permit};
use crate::logging::Limited;

/// Lets in, and keeps count of what it does not let in.
pub struct Guard {
    guests: Arc<dyn Definitions + Send + Sync>,
    denials: AtomicU64,
    told: Limited,
}

impl Guard {
    /// With what `guests` say of who may run them.
    #[must_use]
    pub fn new(guests: Arc<dyn Definitions + Send + Sync>) -> Self {
        Self {
            guests,
            denials: AtomicU64::new(0),
            told: Limited::new(),
        }
    }

    /// Whether this caller, at the address `from`, may do this.
    ///
    /// # Errors
    /// [`Denied`]: it may not, and why.
    pub fn permit(
        &self,
        caller: &Caller,
        act: &Act<'_>,
        from: impl fmt::Display,
    ) -> Result<(), Denied> {
        permit(caller, act, &*self.guests).inspect_err(|denied| {
            let count = self.denials.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(left_out) = self.told.let_through() {
                log::warn!("denied to {from}: {denied} (number {count}){left_out}");
            }
        })
    }

    /// Another number each time that it may decide otherwise than before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.guests.generation()
    }

    /// How often it did not let somebody do something, since the server started.
    #[must_use]
    pub fn denials(&self) -> u64 {
        self.denials.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let denials = self.denials();
        (f.debug_struct("Guard").field("denials", &denials)).finish_non_exhaustive()
    }
}
