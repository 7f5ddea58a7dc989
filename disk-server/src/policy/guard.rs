//! The policy for the threads of a server: what it denies is counted, and told in the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::act::KINDS;
use super::{Act, Caller, Definitions, Denied, permit};
use crate::logging::Limited;

/// Lets in, and keeps count of what it does not let in.
pub struct Guard {
    guests: Arc<dyn Definitions + Send + Sync>,
    /// In the order of [`KINDS`].
    denials: [AtomicU64; KINDS.len()],
    strangers: AtomicU64,
    told: Limited,
}

impl Guard {
    /// With what `guests` say of who may run them.
    #[must_use]
    pub fn new(guests: Arc<dyn Definitions + Send + Sync>) -> Self {
        Self {
            guests,
            denials: Default::default(),
            strangers: AtomicU64::new(0),
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
            self.denials[act.kind()].fetch_add(1, Ordering::Relaxed);
            let count = self.denials();
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
        let counts = self.denials.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The same for each kind of act, and how often somebody was not let in at all.
    pub fn denials_by_action(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let denials = KINDS.into_iter().zip(&self.denials);
        let all = denials.chain([("connect", &self.strangers)]);
        all.map(|(action, count)| (action, count.load(Ordering::Relaxed)))
    }

    /// Somebody has not shown a key that is trusted.
    pub fn not_let_in(&self) {
        self.strangers.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let denials = self.denials();
        (f.debug_struct("Guard").field("denials", &denials)).finish_non_exhaustive()
    }
}
