//! Whether anything is authenticated.

use std::fmt;

/// How an endpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Nothing is authenticated or encrypted. It has to be asked for.
    Plain,
    /// With keys.
    Secure,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Plain => "plain",
            Mode::Secure => "secure",
        })
    }
}
