//! What a guest runs on.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use testbed::Paging;

use crate::workload::{GuestKind, Workload};

/// A host is taken for lost after this silence. Longer than the default: nothing is to fail over
/// because of the machine's other work, and what is measured does not depend on it.
pub(crate) const HEARTBEAT_MS: &str = "2000";

/// What the guest runs on, in the order of the tables. Names on the command line and in files are
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Configuration {
    /// QEMU with KVM, on the host where `ftvm` is measured: what a user would run today.
    Qemu,
    /// `ftvm run`: nothing is recorded.
    Alone,
    /// `ftvm record`: the log goes to a file.
    Record,
    /// `ftvm primary` and `ftvm backup`; what the guest reads from its disk is in the log.
    LoggedReads,
    /// The same; the backup reads the disk itself.
    DiskReads,
    /// QEMU with KVM and COLO between the two hosts.
    Colo,
    /// As [`Configuration::Alone`], on a host with nested paging.
    AloneNested,
    /// As [`Configuration::LoggedReads`], on hosts with nested paging: what differs for it is repaired.
    LoggedReadsNested,
    /// `ftvm primary`, alone, until a backup joins.
    Joining,
    /// QEMU with KVM, migrated live to the other host.
    Migration,
}

impl Configuration {
    /// Its name in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU with KVM",
            Self::Alone => "ftvm alone",
            Self::Record => "ftvm recording",
            Self::LoggedReads => "ftvm replicated",
            Self::DiskReads => "ftvm replicated, backup reads the disk",
            Self::Colo => "QEMU COLO",
            Self::AloneNested => "ftvm alone, nested paging",
            Self::LoggedReadsNested => "ftvm replicated, nested paging",
            Self::Joining => "ftvm, a backup joins",
            Self::Migration => "QEMU, live migration",
        }
    }

    /// Whether a workload is measured under it. QEMU COLO has no disk here: both sides would need one
    /// of their own; and a guest without a disk reads none.
    #[must_use]
    pub fn has(self, workload: Workload) -> bool {
        match self {
            Self::Colo => workload.guest() == GuestKind::Memory && !workload.is_boot(),
            Self::DiskReads => workload.guest() == GuestKind::Disk,
            Self::Joining | Self::Migration => workload.goes_on(),
            _ => true,
        }
    }

    /// Whether what is measured is how the guest's whole state gets to the other host.
    pub(crate) fn transfers(self) -> bool {
        matches!(self, Self::Joining | Self::Migration)
    }

    /// Whether the guest is on two hosts.
    pub(crate) fn has_two_hosts(self) -> bool {
        matches!(
            self,
            Self::LoggedReads
                | Self::DiskReads
                | Self::Colo
                | Self::LoggedReadsNested
                | Self::Joining
        )
    }

    /// The paging that its hosts have: QEMU's as its users have it.
    pub(crate) fn paging(self) -> Paging {
        match self {
            Self::Alone | Self::Record | Self::LoggedReads | Self::DiskReads | Self::Joining => {
                Paging::Shadow
            }
            Self::Qemu
            | Self::Colo
            | Self::AloneNested
            | Self::LoggedReadsNested
            | Self::Migration => Paging::Nested,
        }
    }

    /// Whether it is there to be compared to the same under shadow paging.
    pub(crate) fn compares_paging(self) -> bool {
        matches!(self, Self::AloneNested | Self::LoggedReadsNested)
    }

    /// The same under nested paging, if that is measured.
    pub(crate) fn nested(self) -> Option<Self> {
        match self {
            Self::Alone => Some(Self::AloneNested),
            Self::LoggedReads => Some(Self::LoggedReadsNested),
            _ => None,
        }
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}
