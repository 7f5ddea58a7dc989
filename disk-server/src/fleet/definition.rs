//! A guest, described once for all hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arbiter::{HostName, VmName};
use crate::nbd::ExportName;

/// The longest definition, in bytes of JSON: with what is around it, it fits into a line.
pub const MAX_DEFINITION: usize = 6 << 10;

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub vm: VmName,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its kernel.
    pub kernel: Image,
    /// Its initramfs.
    pub initrd: Option<Image>,
    /// Words for the kernel's command line.
    pub append: String,
    /// Its Ethernet address, six bytes in hexadecimal with colons.
    pub mac: String,
    /// Its clock, as in its configuration.
    pub clock: String,
    /// The URI of its disk.
    pub disk: Option<String>,
    /// What that is called where it is served.
    pub export: Option<ExportName>,
    /// Silence after which one of its hosts takes the other for lost, in milliseconds.
    pub heartbeat_timeout_ms: Option<u64>,
    /// When its lag is told in which colour.
    pub lag: LagBounds,
    /// The hosts that may run it.
    #[serde(default, skip_serializing_if = "NamedHosts::is_all")]
    pub hosts: NamedHosts,
}

/// The hosts that a guest names: those that may run it. One that says nothing of hosts may be run by all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamedHosts(Option<BTreeSet<HostName>>);

/// A file that each host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where, the same on every host.
    pub path: String,
    /// What is in it.
    pub sha256: ImageDigest,
}

/// The SHA-256 of a file. As text, 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(pub [u8; 32]);

/// A string that is no [`ImageDigest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 lower-case hexadecimal digits")]
pub struct ImageDigestError;

/// From when on a lag is told in yellow, and in red. A guest whose lag is red is not protected as it should
/// be: a failover would take that much longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagBounds {
    /// Milliseconds.
    pub yellow_ms: u64,
    /// Milliseconds.
    pub red_ms: u64,
}

/// Why a definition is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It is too long.
    #[error(
        "the definition has {len} bytes, of at most {MAX_DEFINITION}: shorten the command line or the paths"
    )]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A path is relative, which says nothing on another host.
    #[error("{path} is not an absolute path")]
    Relative {
        /// The path.
        path: String,
    },
    /// Nobody may run it.
    #[error("hosts = []: name the hosts that may run it, or leave that out for all")]
    NoHosts,
    /// The bounds of the lag are no bounds.
    #[error(
        "a lag is yellow from {yellow_ms} ms on and red from {red_ms} ms on: yellow must come first"
    )]
    Lag {
        /// From when on yellow.
        yellow_ms: u64,
        /// From when on red.
        red_ms: u64,
    },
}

impl Default for LagBounds {
    fn default() -> Self {
        Self {
            yellow_ms: 100,
            red_ms: 1000,
        }
    }
}

impl NamedHosts {
    /// Whether this host may run the guest.
    #[must_use]
    pub fn names(&self, host: &HostName) -> bool {
        self.0.as_ref().is_none_or(|hosts| hosts.contains(host))
    }

    /// Whether every host may.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether none may.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.0.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

impl FromIterator<HostName> for NamedHosts {
    fn from_iter<T: IntoIterator<Item = HostName>>(hosts: T) -> Self {
        Self(Some(hosts.into_iter().collect()))
    }
}

impl Definition {
    /// What `new` says otherwise of the guest itself, by the names of fields: that counts from its next start on. The
    /// rest is the service's to know alone, and counts at once.
    #[must_use]
    pub fn changed_at_a_start(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            vm: _,
            memory_mib,
            kernel,
            initrd,
            append,
            mac,
            clock,
            disk,
            export,
            heartbeat_timeout_ms,
            lag: _,
            hosts: _,
        } = self;
        let fields = [
            ("memory_mib", *memory_mib != new.memory_mib),
            ("kernel", *kernel != new.kernel),
            ("initrd", *initrd != new.initrd),
            ("append", *append != new.append),
            ("mac", *mac != new.mac),
            ("clock", *clock != new.clock),
            ("disk", (disk, export) != (&new.disk, &new.export)),
            (
                "heartbeat_timeout_ms",
                *heartbeat_timeout_ms != new.heartbeat_timeout_ms,
            ),
        ];
        let changed = fields.into_iter().filter(|(_, is_changed)| *is_changed);
        changed.map(|(name, _)| name).collect()
    }

    /// Checks what can be checked without its images.
    ///
    /// # Errors
    /// See [`DefinitionError`].
    pub fn check(&self) -> Result<(), DefinitionError> {
        for image in [Some(&self.kernel), self.initrd.as_ref()]
            .into_iter()
            .flatten()
        {
            if !image.path.starts_with('/') {
                return Err(DefinitionError::Relative {
                    path: image.path.clone(),
                });
            }
        }
        if self.hosts.is_nobody() {
            return Err(DefinitionError::NoHosts);
        }
        let LagBounds { yellow_ms, red_ms } = self.lag;
        if yellow_ms > red_ms {
            return Err(DefinitionError::Lag { yellow_ms, red_ms });
        }
        // Serialising plain data into memory cannot fail.
        let len = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        match len > MAX_DEFINITION {
            true => Err(DefinitionError::TooLong { len }),
            false => Ok(()),
        }
    }
}

impl FromStr for ImageDigest {
    type Err = ImageDigestError;

    fn from_str(text: &str) -> Result<Self, ImageDigestError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(ImageDigestError),
        };
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return Err(ImageDigestError);
        }
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = ImageDigestError;

    fn try_from(text: String) -> Result<Self, ImageDigestError> {
        text.parse()
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
