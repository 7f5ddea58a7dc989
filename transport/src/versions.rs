//! Which versions of a protocol an end speaks, and which one two ends speak with each other.
//!
//! Each end says its range, both over the connection that the keys protect, and each finds the same number for
//! itself: the greatest that both have. Nobody proposes and nobody accepts, so there is nothing to talk down.

use std::fmt;

/// The versions of a protocol that an end speaks: all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The least of them.
    pub oldest: u16,
    /// The greatest of them.
    pub newest: u16,
}

impl Versions {
    /// One version, and no other.
    #[must_use]
    pub const fn only(version: u16) -> Self {
        Self {
            oldest: version,
            newest: version,
        }
    }

    /// Whether `version` is one of them.
    #[must_use]
    pub fn contains(self, version: u16) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// What this end speaks with another one: the greatest version that both have, or `None`.
    #[must_use]
    pub fn common(self, theirs: Versions) -> Option<u16> {
        let newest = self.newest.min(theirs.newest);
        (self.contains(newest) && theirs.contains(newest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            return write!(f, "{}", self.newest);
        }
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small numbers, so that ranges meet; some are the wrong way round, as a peer may say them.
    fn versions() -> impl Strategy<Value = Versions> {
        (0u16..12, 0u16..12).prop_map(|(oldest, newest)| Versions { oldest, newest })
    }

    #[test]
    fn neighbours_understand_each_other_and_no_others_do() {
        let programs = [12, 13, 14, 15].map(|newest| Versions {
            oldest: newest - 1,
            newest,
        });
        for (n, one) in programs.iter().enumerate() {
            for (m, other) in programs.iter().enumerate() {
                let common = (n.abs_diff(m) <= 1).then_some(one.newest.min(other.newest));
                assert_eq!(one.common(*other), common, "{one} and {other}");
            }
        }
        assert_eq!(Versions::only(3).to_string(), "3");
        assert_eq!(programs[0].to_string(), "11 to 12");
    }

    proptest! {
        #[test]
        fn both_ends_find_the_greatest_that_both_have(one in versions(), other in versions()) {
            let greatest = (0..12).rev().find(|it| one.contains(*it) && other.contains(*it));
            prop_assert_eq!(one.common(other), greatest);
            prop_assert_eq!(other.common(one), greatest);
        }
    }
}
