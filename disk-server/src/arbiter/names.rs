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
    /// It has a character other than the printable ASCII ones, or one that separates such names. Spaces
    /// are left out too: names stand in tables and log lines.
    #[error("a {what} consists of printable ASCII characters without spaces, not {character:?}")]
    Character {
        /// What it was to name.
        what: &'static str,
        /// The first offending character.
        character: char,
    },
}

fn check(
    what: &'static str,
    max: usize,
    without: Option<char>,
    name: &str,
) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        let len = name.len();
        return Err(NameError::TooLong { what, len, max });
    }
    match name
        .chars()
        .find(|c| !c.is_ascii_graphic() || without == Some(*c))
    {
        Some(character) => Err(NameError::Character { what, character }),
        None => Ok(()),
    }
}

macro_rules! bounded_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $without:expr) => {
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
                check($what, $max, $without, &name)?;
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
    VmName, "VM name", 64, None
}

bounded_name! {
    /// Who claims an epoch: one run of one virtual machine monitor.
    ///
    /// The arbiter takes two requests with the same claimant for retries of one another, so a
    /// claimant must never name two that could both go live. [`Claimant::generate`] sees to that
    /// with a random nonce: a host that restarts is another claimant.
    Claimant, "claimant", 128, None
}

bounded_name! {
    /// What a host is called. It has no `/`.
    HostName, "host name", 64, Some('/')
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

impl HostName {
    /// This host's, as its kernel has it.
    #[must_use]
    pub fn of_this_host() -> HostName {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::fitting(name.trim())
    }

    /// A name that is as much of `name` as can be.
    fn fitting(name: &str) -> HostName {
        let fits = |c: char| c.is_ascii_graphic() && c != '/';
        let name = name.chars().map(|c| if fits(c) { c } else { '_' });
        let name: String = name.take(Self::MAX_LEN).collect();
        HostName(if name.is_empty() {
            "unnamed".into()
        } else {
            name
        })
    }
}

impl Claimant {
    /// A claimant that nobody else has: a run on this host, by its name and a random nonce.
    ///
    /// # Errors
    /// The kernel's random number device cannot be read.
    pub fn generate(host: &HostName) -> io::Result<Claimant> {
        Ok(Self::compose(host, random::nonce()?))
    }

    // Uniqueness rests on the nonce.
    fn compose(host: &HostName, nonce: u128) -> Claimant {
        Claimant(format!("{host}/{nonce:032x}"))
    }

    /// The host on which it runs, as far as the name says.
    #[must_use]
    pub fn host(&self) -> HostName {
        HostName::fitting(self.0.rsplit_once('/').map_or(&*self.0, |(host, _)| host))
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
        assert!("a/b".parse::<VmName>().is_ok() && "a/b".parse::<HostName>().is_err());
        for bad in ["a b", "a\n", "a\0", "é", "\u{7f}"] {
            assert!(
                matches!(bad.parse::<VmName>(), Err(NameError::Character { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn generated_claimants_differ() {
        let host = HostName::of_this_host();
        let [one, other] = [(); 2].map(|()| Claimant::generate(&host).unwrap());
        assert_ne!(one, other);
        assert_eq!((one.host(), other.host()), (host.clone(), host));
    }

    proptest! {
        #[test]
        fn any_host_name_makes_a_valid_claimant(host in ".{0,300}", nonce: u128) {
            let host = HostName::fitting(&host);
            prop_assert_eq!(host.as_str().parse::<HostName>().unwrap(), host.clone());
            let claimant = Claimant::compose(&host, nonce);
            prop_assert_eq!(claimant.host(), host);
            prop_assert_eq!(claimant.as_str().parse::<Claimant>().unwrap(), claimant.clone());
            let tail = format!("/{nonce:032x}");
            prop_assert!(claimant.as_str().ends_with(&tail));
        }
    }
}
