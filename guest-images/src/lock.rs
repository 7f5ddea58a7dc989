//! The packages that images are made of, pinned by `packages.lock`.
//!
//! One package a line, sorted, fields separated by blanks:
//!
//! ```text
//! use      name            version                architecture path                       SHA-256
//! bookworm busybox-static  1:1.35.0-4+deb12u1+b1  amd64        debian/pool/main/b/busy…   9e3f…
//! ```
//!
//! The path is below a mirror of Debian, and begins with the archive: `debian` or
//! `debian-security`. The line `snapshot TIME` says at which time snapshot.debian.org has all of
//! them. `cargo xtask images --renew` writes the file.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::LockError;

/// The list that is committed.
const COMMITTED: &str = include_str!("../packages.lock");

const HEADER: &str = "\
# The packages that images are made of: use, name, version, architecture, path, SHA-256.
# Made by `cargo xtask images --renew`.
";

/// What packages are used for. A package is pinned for each use by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Unpacked: kernel and programs of Debian 12.
    Bookworm,
    /// Installed in the disk image ([`crate::debian`]), from Debian 12.
    Disk,
    /// Installed in the disk image of the testbed's hosts ([`crate::debian_host`]), from Debian 12.
    Host,
    /// Unpacked: the kernel of Debian 13.
    Trixie,
}

impl Use {
    const ALL: [Self; 4] = [Self::Bookworm, Self::Disk, Self::Host, Self::Trixie];

    /// Debian's name for the release.
    #[must_use]
    pub fn release(self) -> &'static str {
        match self {
            Self::Bookworm | Self::Disk | Self::Host => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Disk => "disk",
            Self::Host => "host",
            Self::Trixie => "trixie",
        })
    }
}

/// One file of Debian's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The package.
    pub name: String,
    /// Its version, in Debian's notation.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Where it is below a mirror.
    pub path: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

impl Pin {
    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// A list of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// A time at which snapshot.debian.org has all of them, in its notation.
    pub snapshot: String,
    /// The packages, by use and name.
    pub pins: BTreeMap<(Use, String), Pin>,
}

impl Lock {
    /// The list that is committed.
    ///
    /// # Errors
    ///
    /// When somebody broke it.
    pub fn committed() -> Result<Self, LockError> {
        Self::parse(COMMITTED)
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// When a line is not as it should be, or a package is there twice.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let mut lock = Self::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = || LockError {
                line: index + 1,
                text: line.to_owned(),
            };
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["snapshot", time] => lock.snapshot = time.to_owned(),
                [purpose, name, version, architecture, path, sha256] => {
                    let purpose = Use::ALL
                        .into_iter()
                        .find(|known| known.to_string() == purpose)
                        .ok_or_else(wrong)?;
                    let pin = Pin {
                        name: name.to_owned(),
                        version: version.to_owned(),
                        architecture: architecture.to_owned(),
                        path: path.to_owned(),
                        sha256: sha256.to_owned(),
                    };
                    let is_digest =
                        sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
                    if !is_digest
                        || !path.contains("/pool/")
                        || path.contains("..")
                        || lock.pins.insert((purpose, pin.name.clone()), pin).is_some()
                    {
                        return Err(wrong());
                    }
                }
                _ => return Err(wrong()),
            }
        }
        Ok(lock)
    }

    /// The packages of one use, by name.
    pub fn of(&self, purpose: Use) -> impl Iterator<Item = &Pin> {
        self.pins
            .iter()
            .filter(move |((of, _), _)| *of == purpose)
            .map(|(_, pin)| pin)
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        writeln!(f, "snapshot {}", self.snapshot)?;
        for ((purpose, name), pin) in &self.pins {
            let Pin {
                version,
                architecture,
                path,
                sha256,
                ..
            } = pin;
            writeln!(
                f,
                "{purpose} {name} {version} {architecture} {path} {sha256}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_list_is_as_it_would_be_written() {
        let lock = Lock::committed().expect("a good list");
        assert_eq!(lock.to_string(), COMMITTED);
        for purpose in Use::ALL {
            assert!(lock.of(purpose).next().is_some(), "{purpose} has packages");
        }
        for pin in lock.pins.values() {
            let archive = pin.path.split('/').next();
            assert!(
                matches!(archive, Some("debian" | "debian-security")),
                "{pin:?}"
            );
        }
    }

    #[test]
    fn a_broken_list_is_told_with_its_line() {
        let digest = "0".repeat(64);
        let good = format!("bookworm a 1:2-3 amd64 debian/pool/main/a/a_2-3_amd64.deb {digest}");
        let lock = Lock::parse(&format!("# words\nsnapshot 1\n\n{good}\n")).expect("a list");
        let pin = lock.of(Use::Bookworm).next().expect("a package");
        assert_eq!(pin.file_name(), "a_2-3_amd64.deb");
        for bad in [
            good.replace("bookworm", "potato"),
            good.replace("debian/pool/", "debian/pool/../"),
            good.replace("pool", "pond"),
            good.replace(&digest, "12"),
            good.replace(" amd64", ""),
            format!("{good}\n{good}"),
        ] {
            let error = Lock::parse(&format!("# one\n{bad}\n")).expect_err(&bad);
            assert!((2..=3).contains(&error.line), "{error}");
        }
    }
}
