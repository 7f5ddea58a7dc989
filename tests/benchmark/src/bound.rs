//! What a figure is to reach.

use std::fmt;

use crate::statistics::figure;

/// A bound of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// By how many times a figure misses it: above 1, it does.
    pub(crate) fn excess(self, value: f64) -> f64 {
        match self {
            Self::AtLeast(bound) => bound / value,
            Self::AtMost(bound) => value / bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "at least {}", figure(*bound)),
            Self::AtMost(bound) => write!(f, "at most {}", figure(*bound)),
        }
    }
}
