//! Names that cross the wire and reach the disk: bounded, printable, without spaces.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::random;

/// Why a string is no [`VmName`] or [`Claimant`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("a {what} must not be empty")]
    Empty {
        /// What it was to name.
        what: &'static str,
    },
    /// It has too many characters.
    #[error("a {what} has at most {max} characters, this one has {len} bytes")]
    TooLong {
        /// What it was to name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// It has a character other than the printable ASCII ones. Spaces are left out too: names
    /// stand in tables and log lines.
    #[error("a {what} consists of printable ASCII characters without spaces, not {character:?}")]
    Character {
        /// What it was to name.
        what: &'static str,
        /// The first offending character.
        character: char,
    },
}

fn check(what: &'static str, max: usize, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        let len = name.len();
        return Err(NameError::TooLong { what, len, max });
    }
    match name.chars().find(|c| !c.is_ascii_graphic()) {
        Some(character) => Err(NameError::Character { what, character }),
        None => Ok(()),
    }
}

macro_rules! bounded_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The most characters that it may have.
            pub const MAX_LEN: usize = $max;

            /// The name as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                check($what, $max, &name)?;
                Ok(Self(name))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::try_from(name.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `pad` and not `write_str`, so that tables can align names.
                f.pad(&self.0)
            }
        }
    };
}

bounded_name! {
    /// The name of a virtual machine: what an epoch belongs to.
    VmName, "VM name", 64
}

bounded_name! {
    /// Who claims an epoch: one run of one virtual machine monitor.
    ///
    /// The arbiter takes two requests with the same claimant for retries of one another, so a
    /// claimant must never name two that could both go live. [`Claimant::generate`] sees to that
    /// with a random nonce: a host that restarts is another claimant.
    Claimant, "claimant", 128
}

/// The number of a disk server: drawn at random when it makes its state, and kept there. As text, 16
/// lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerNumber(pub u64);

/// A string that is no [`ServerNumber`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a disk server's number has 16 lower-case hexadecimal digits")]
pub struct ServerNumberError;

impl FromStr for ServerNumber {
    type Err = ServerNumberError;

    fn from_str(text: &str) -> Result<Self, ServerNumberError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(digit) {
            return Err(ServerNumberError);
        }
        u64::from_str_radix(text, 16)
            .map(ServerNumber)
            .map_err(|_| ServerNumberError)
    }
}

impl TryFrom<String> for ServerNumber {
    type Error = ServerNumberError;

    fn try_from(text: String) -> Result<Self, ServerNumberError> {
        text.parse()
    }
}

impl From<ServerNumber> for String {
    fn from(number: ServerNumber) -> String {
        number.to_string()
    }
}

impl fmt::Display for ServerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Claimant {
    /// A claimant that nobody else has: this host's name and a random nonce.
    ///
    /// # Errors
    /// The kernel's random number device cannot be read.
    pub fn generate() -> io::Result<Claimant> {
        let nonce = random::nonce()?;
        // The host name is for people only; uniqueness rests on the nonce.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self::compose(host.trim(), nonce))
    }

    fn compose(host: &str, nonce: u128) -> Claimant {
        let nonce = format!("{nonce:032x}");
        let room = Self::MAX_LEN - nonce.len() - 1;
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '_' })
            .take(room)
            .collect();
        let host = if host.is_empty() { "unnamed" } else { &host };
        Claimant(format!("{host}/{nonce}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(
            "".parse::<VmName>(),
            Err(NameError::Empty { what: "VM name" })
        );
        assert!("x".repeat(64).parse::<VmName>().is_ok());
        assert!(matches!(
            "x".repeat(65).parse::<VmName>(),
            Err(NameError::TooLong {
                len: 65,
                max: 64,
                ..
            })
        ));
        for bad in ["a b", "a\n", "a\0", "é", "\u{7f}"] {
            assert!(
                matches!(bad.parse::<VmName>(), Err(NameError::Character { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn generated_claimants_differ() {
        assert_ne!(Claimant::generate().unwrap(), Claimant::generate().unwrap());
    }

    proptest! {
        #[test]
        fn any_host_name_makes_a_valid_claimant(host in ".{0,300}", nonce: u128) {
            let claimant = Claimant::compose(&host, nonce);
            prop_assert_eq!(claimant.as_str().parse::<Claimant>().unwrap(), claimant.clone());
            let tail = format!("/{nonce:032x}");
            prop_assert!(claimant.as_str().ends_with(&tail));
        }
    }
}
