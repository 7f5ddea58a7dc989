//! Telling what is under way from what comes later.

use std::collections::BTreeMap;

/// Counts what is under way by when it began. Raised, it lets wait for all that began before, whatever
/// begins meanwhile.
///
/// ```text
///     a ──────────────────── leaves          is clear from here on
///              b ──── leaves                        │
///               raise ················ waits ·······┘
///                      c ──────────────────────────────── leaves
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Barrier {
    /// How often it was raised, and so the number of the last time.
    raised: u64,
    /// How many began behind each time that it was raised, and are under way; none is 0.
    under_way: BTreeMap<u64, usize>,
}

impl Barrier {
    /// The number of the last time that it was raised; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.raised
    }

    /// What begins from now on is later than all that has begun. Returns the number of this time.
    pub(super) fn raise(&mut self) -> u64 {
        self.raised += 1;
        self.raised
    }

    /// Something begins. [`Barrier::leave`] is to be told the number that is returned.
    pub(super) fn enter(&mut self) -> u64 {
        *self.under_way.entry(self.raised).or_default() += 1;
        self.raised
    }

    /// Something is over. Whether that may be what somebody waits for.
    #[must_use]
    pub(super) fn leave(&mut self, entered: u64) -> bool {
        let Some(count) = self.under_way.get_mut(&entered) else {
            return false;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.under_way.remove(&entered);
        }
        last
    }

    /// Whether nothing is under way that began before this time.
    pub(super) fn is_clear(&self, raised: u64) -> bool {
        let earliest = self.under_way.first_key_value();
        earliest.is_none_or(|(earliest, _)| *earliest >= raised)
    }
}
