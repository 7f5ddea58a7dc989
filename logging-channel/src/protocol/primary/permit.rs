//! What may leave the primary.

use std::time::Instant;

use crate::entry::Lsn;

/// Which outputs may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permit {
    /// Those of the entries up to this one.
    pub up_to: Lsn,
    /// Not later than this, when the backup may have gone live; `None`: for good.
    pub until: Option<Instant>,
}

impl Permit {
    /// The same for a log in which the session's entries come after `base` others.
    #[must_use]
    pub fn after(self, base: u64) -> Self {
        Self {
            up_to: Lsn(self.up_to.0.saturating_add(base)),
            ..self
        }
    }

    /// Whether it still holds.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now <= until)
    }
}
