//! What a guest runs on.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::workload::{GuestKind, Workload};

/// What the guest runs on, in the order of the tables. Names on the command line and in files are
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
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

    /// Why a workload is not measured under it, if it is not.
    #[must_use]
    pub fn gap(self, workload: Workload) -> Option<&'static str> {
        match (self, workload.guest()) {
            (Self::Colo, GuestKind::Disk) => {
                Some("it runs without a disk here: both sides would need one of their own")
            }
            (Self::DiskReads, GuestKind::Memory) => {
                Some("a guest without a disk reads none: the same as ftvm replicated")
            }
            _ => None,
        }
    }

    /// Whether the guest is on two hosts.
    pub(crate) fn has_two_hosts(self) -> bool {
        matches!(self, Self::LoggedReads | Self::DiskReads | Self::Colo)
    }

    /// Whether it is `ftvm` in one of its roles.
    pub(crate) fn is_ftvm(self) -> bool {
        !matches!(self, Self::Qemu | Self::Colo)
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}
