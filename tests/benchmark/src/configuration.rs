//! What a guest runs on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::workload::{GuestKind, Workload};

/// What the guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Configuration {
    /// QEMU with KVM, on the host where `ftvm` is measured: what a user would run today.
    Qemu,
    /// `ftvm run`: nothing is recorded.
    Alone,
    /// The same, with a program on the other host that computes all the time: what a busy backup
    /// costs the primary where two hosts share a machine, as emulated ones do.
    Beside,
    /// `ftvm record`: the log goes to a file.
    Record,
    /// `ftvm primary` and `ftvm backup`; what the guest reads from its disk is in the log.
    LoggedReads,
    /// The same; the backup reads the disk itself.
    DiskReads,
    /// QEMU with KVM and COLO between the two hosts.
    Colo,
}

impl Configuration {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 7] = [
        Self::Qemu,
        Self::Alone,
        Self::Beside,
        Self::Record,
        Self::LoggedReads,
        Self::DiskReads,
        Self::Colo,
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Alone => "alone",
            Self::Beside => "beside",
            Self::Record => "record",
            Self::LoggedReads => "logged-reads",
            Self::DiskReads => "disk-reads",
            Self::Colo => "colo",
        }
    }

    /// Its name in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU with KVM",
            Self::Alone => "ftvm alone",
            Self::Beside => "ftvm alone, other host busy",
            Self::Record => "ftvm recording",
            Self::LoggedReads => "ftvm replicated",
            Self::DiskReads => "ftvm replicated, backup reads the disk",
            Self::Colo => "QEMU COLO",
        }
    }

    /// Why a workload is not measured under it, if it is not: the gap in the table.
    #[must_use]
    pub fn gap(self, workload: Workload) -> Option<&'static str> {
        match (self, workload.guest()) {
            (Self::Colo, GuestKind::Disk) => {
                Some("QEMU COLO runs without a disk here: both sides would need one of their own")
            }
            (Self::DiskReads, GuestKind::Memory) => {
                Some("a guest without a disk reads none: the same as ftvm replicated")
            }
            _ => None,
        }
    }

    /// Whether the guest is on two hosts.
    #[must_use]
    pub fn has_two_hosts(self) -> bool {
        matches!(self, Self::LoggedReads | Self::DiskReads | Self::Colo)
    }

    /// Whether it is `ftvm` in one of its roles.
    #[must_use]
    pub fn is_ftvm(self) -> bool {
        !matches!(self, Self::Qemu | Self::Colo)
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

/// There is no such configuration, or no such workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} `{name}`: known are {known}")]
pub struct UnknownName {
    /// What was meant.
    what: &'static str,
    /// What was named.
    name: String,
    /// What could have been.
    known: String,
}

/// The one of `all` that has this name.
pub(super) fn named<T: Copy, const N: usize>(
    what: &'static str,
    name: &str,
    all: [T; N],
    name_of: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let found = all.into_iter().find(|one| name_of(*one) == name);
    found.ok_or_else(|| UnknownName {
        what,
        name: name.to_owned(),
        known: all.map(name_of).join(", "),
    })
}

impl FromStr for Configuration {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("configuration", name, Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_are_those_in_files() {
        for configuration in Configuration::ALL {
            let name = configuration.name();
            assert_eq!(name.parse(), Ok(configuration));
            let json = serde_json::to_string(&configuration).expect("plain data");
            assert_eq!(json, format!("\"{name}\""));
        }
        let unknown = "xen".parse::<Configuration>().expect_err("there is none");
        assert!(unknown.to_string().contains("logged-reads"), "{unknown}");
    }

    #[test]
    fn every_workload_is_measured_under_qemu_and_alone_and_replicated() {
        for workload in Workload::ALL {
            for configuration in [
                Configuration::Qemu,
                Configuration::Alone,
                Configuration::LoggedReads,
            ] {
                assert_eq!(configuration.gap(workload), None);
            }
        }
    }
}
