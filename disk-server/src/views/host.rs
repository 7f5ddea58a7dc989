//! What a host says of itself, and whether it can be the backup of another's guest.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::text::Text;
use crate::arbiter::{Claimant, VmName};
use crate::nbd::ExportName;

/// The most exports that a host tells.
pub const MAX_EXPORTS: usize = 8;

/// A host, at regular intervals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Who: one run of ftvm.
    pub host: Claimant,
    /// Counts up within the run, so that an older ping is known as that.
    pub number: u64,
    /// What it can carry.
    pub carries: Capabilities,
    /// What it does.
    pub role: Role,
}

/// What a host has for a guest, or a guest needs of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Memory for a guest and what ftvm keeps of it, in MiB: what there is, or how much it takes.
    pub memory_mib: u64,
    /// The processor's name, for people.
    pub processor: Text,
    /// What that does where processors differ, in short: equal on hosts on which a guest is the same.
    pub instructions: u32,
    /// Who translates the guest's addresses.
    pub paging: Paging,
    /// The exports that the host reaches, or the guest has: at most [`MAX_EXPORTS`].
    #[serde(deserialize_with = "few_exports")]
    pub exports: BTreeSet<ExportName>,
}

/// Who translates a guest's addresses on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paging {
    /// KVM, with page tables of its own.
    Shadow,
    /// The processor.
    Nested,
}

/// What a host does with a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// Nothing yet: it waits to be the backup of `vm`, whose images it has.
    Idle {
        /// The guest.
        vm: VmName,
        /// What it does not do, if it was proposed and something kept it.
        declined: Option<Declined>,
    },
    /// It runs `vm`.
    Primary {
        /// The guest.
        vm: VmName,
        /// In which it runs it.
        epoch: u64,
        /// What it wants of a backup; `None` if it has one, or one is joining.
        wants: Option<Wanted>,
    },
    /// It is the backup of `vm`.
    Backup {
        /// The guest.
        vm: VmName,
        /// To which it belongs.
        epoch: u64,
    },
}

/// A proposal that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declined {
    /// The view that it was to follow.
    pub view: u64,
    /// Why.
    pub reason: Text,
}

/// What a primary wants of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where its logging channel is; with an unspecified IP where its pings come from.
    pub address: SocketAddr,
    /// What its guest needs.
    pub needs: Capabilities,
}

/// Why a host is not proposed as a guest's backup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// Its pings stay away.
    Dead,
    /// It runs a guest, or is the backup of one.
    HasRole,
    /// Not enough memory, in MiB.
    Memory {
        /// What it has.
        has: u64,
        /// What the guest needs.
        needs: u64,
    },
    /// Another processor.
    Processor {
        /// The host's.
        has: Text,
        /// The primary's.
        needs: Text,
    },
    /// Another one translates the guest's addresses.
    Paging {
        /// On the host.
        has: Paging,
        /// On the primary.
        needs: Paging,
    },
    /// It does not reach this disk of the guest.
    Export(ExportName),
    /// The primary takes backups at a loopback address, and the host is not on that machine.
    OutOfReach(SocketAddr),
    /// It was proposed a moment ago, and nothing came of it.
    Declined(Text),
}

impl Role {
    /// The guest that it is about.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        match self {
            Self::Idle { vm, .. } | Self::Primary { vm, .. } | Self::Backup { vm, .. } => vm,
        }
    }
}

impl Capabilities {
    /// What these lack of what a guest `needs`.
    #[must_use]
    pub fn shortfall(&self, needs: &Capabilities) -> Option<Unfit> {
        if self.memory_mib < needs.memory_mib {
            return Some(Unfit::Memory {
                has: self.memory_mib,
                needs: needs.memory_mib,
            });
        }
        if self.instructions != needs.instructions {
            return Some(Unfit::Processor {
                has: self.processor.clone(),
                needs: needs.processor.clone(),
            });
        }
        if self.paging != needs.paging {
            return Some(Unfit::Paging {
                has: self.paging,
                needs: needs.paging,
            });
        }
        let missing = needs.exports.difference(&self.exports).next();
        missing.cloned().map(Unfit::Export)
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shadow => "shadow",
            Self::Nested => "nested",
        })
    }
}

/// What follows a host's name.
impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("is dead: its pings stay away"),
            Self::HasRole => f.write_str("runs a guest, or is the backup of one"),
            Self::Memory { has, needs } => write!(f, "has {has} MiB of memory of {needs}"),
            Self::Processor { has, needs } => {
                write!(f, "has another processor: {has}, and the primary {needs}")
            }
            Self::Paging { has, needs } => {
                write!(f, "has {has} paging, and the primary {needs} paging")
            }
            Self::Export(name) => write!(f, "does not reach the disk {name}"),
            Self::OutOfReach(address) => write!(
                f,
                "does not reach the primary, which takes backups at {address}: start that with --listen at \
                 an address of the logging network"
            ),
            Self::Declined(reason) => write!(f, "was proposed, and is not a backup: {reason}"),
        }
    }
}

fn few_exports<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeSet<ExportName>, D::Error> {
    let exports = BTreeSet::deserialize(deserializer)?;
    if exports.len() > MAX_EXPORTS {
        let what = format!("{} exports: at most {MAX_EXPORTS}", exports.len());
        return Err(serde::de::Error::custom(what));
    }
    Ok(exports)
}
