//! What happens to a host.

use std::fmt;

/// What is done in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The host loses its power, and boots again once it is known to be dead.
    Kill,
    /// All guests leave the host, by an operator's word.
    Drain,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed",
            Fault::Drain => "drained",
        })
    }
}
