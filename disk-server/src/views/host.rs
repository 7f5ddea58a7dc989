//! What a host says of itself, and whether it can be the backup of another's guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::text::Text;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::nbd::ExportName;

/// The most exports that a host tells. One that tells so many may reach others.
pub const MAX_EXPORTS: usize = 8;

/// The most guests that a host's daemon looks after.
pub const MAX_PROCESSES: usize = 32;

/// The most ends of processes that a host's daemon tells in a ping.
pub const MAX_ENDED: usize = 4;

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
    /// The exports that the host reaches, or the guest has: at most [`MAX_EXPORTS`]. Of a host that tells as many it
    /// is not known which it does not reach.
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

/// What a run of ftvm does on a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// It is the host's daemon, which looks after guests: each of them is another run of ftvm.
    Host(Tended),
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
        /// How the guest is.
        condition: Condition,
    },
    /// It is the backup of `vm`.
    Backup {
        /// The guest.
        vm: VmName,
        /// To which it belongs.
        epoch: u64,
        /// How its copy is.
        condition: Condition,
    },
}

/// What a host's daemon looks after.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tended {
    /// The guests of which a run of ftvm is on this host, at most [`MAX_PROCESSES`]; `None` where it is not
    /// known yet which claimant that is. What is not here does not run on this host.
    #[serde(deserialize_with = "few_processes")]
    pub processes: BTreeMap<VmName, Option<Claimant>>,
    /// Those that have ended and were not told yet, at most [`MAX_ENDED`].
    #[serde(deserialize_with = "few_ended")]
    pub ended: Vec<Ended>,
    /// Which machine this is, whatever name it was given; empty where the daemon does not know.
    pub machine: Text,
    /// Where the daemon gives the consoles of its guests; with an unspecified IP where its pings come from.
    pub console: SocketAddr,
}

/// A run of ftvm has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Counts the ends on this host, so that one that is told twice is known.
    pub number: u64,
    /// Of which guest.
    pub vm: VmName,
    /// Its exit status, or 128 and the number of the signal that ended it; `None` if nobody saw how it ended.
    pub status: Option<i32>,
    /// What kept it from what it was to do, if something did.
    pub cause: Cause,
    /// What it said last, or which signal.
    pub reason: Text,
}

/// What keeps a host from being a guest's backup, as far as something follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The primary does not answer in the network of the log.
    Unreached,
    /// Something else, or nothing.
    Other,
}

/// How a copy of a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What it does.
    pub phase: Phase,
    /// How far the backup's execution is behind, in milliseconds; 0 where there is none.
    pub lag_ms: u64,
    /// What the log takes, lately.
    pub log_bytes_per_second: u64,
    /// How this run went live, if it did.
    pub went_live: Option<WentLive>,
}

/// A backup went live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WentLive {
    /// The epoch that it won.
    pub epoch: u64,
    /// From the last sign of the primary to the guest's next instruction here, in milliseconds.
    pub outage_ms: u64,
}

/// What a copy of a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has not begun to run, or to follow.
    #[default]
    Starting,
    /// A primary: it runs alone.
    Alone,
    /// A primary: a backup joins. A backup: it joins.
    Joining {
        /// How much of the guest's memory was gone through in this round.
        percent: u8,
    },
    /// A primary: it has a backup. A backup: it follows.
    Protected,
    /// The backup differs, and is sent the whole state.
    Diverged,
    /// The other host is lost, and the disk server has not yet said who may go on.
    Waiting,
}

/// A proposal that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declined {
    /// The view that it was to follow.
    pub view: u64,
    /// What kept the host from it.
    pub cause: Cause,
    /// Why, in words.
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
    /// The primary takes backups at a loopback address, and the host is not on that machine; or at every IPv4
    /// address, and it is not known at which one others reach it.
    OutOfReach(SocketAddr),
    /// It was proposed a moment ago, and nothing came of it.
    Declined(Text),
    /// It was, and did not reach the primary.
    Unreached(Text),
    /// The guest's definition does not name it.
    NotNamed,
    /// An operator wants it empty.
    Draining,
    /// An operator wants the guest's backup on another host.
    NotChosen(HostName),
}

impl Role {
    /// The guest that it is about; `None` of a host's daemon.
    #[must_use]
    pub fn vm(&self) -> Option<&VmName> {
        match self {
            Self::Host(_) => None,
            Self::Idle { vm, .. } | Self::Primary { vm, .. } | Self::Backup { vm, .. } => Some(vm),
        }
    }
}

impl Cause {
    /// Why a host does not fit that has failed for this cause, in these words.
    pub(super) fn unfit(self, reason: Text) -> Unfit {
        match self {
            Self::Unreached => Unfit::Unreached(reason),
            Self::Other => Unfit::Declined(reason),
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
        if self.exports.len() >= MAX_EXPORTS {
            return None;
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
            Self::Unreached(reason) => write!(f, "does not reach the primary: {reason}"),
            Self::NotNamed => f.write_str("is not among the hosts that may run the guest"),
            Self::Draining => f.write_str("is drained"),
            Self::NotChosen(host) => write!(f, "is not {host}, which was asked for"),
        }
    }
}

fn few_processes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<VmName, Option<Claimant>>, D::Error> {
    let processes = BTreeMap::deserialize(deserializer)?;
    match processes.len() > MAX_PROCESSES {
        true => Err(too_many(processes.len(), "guests", MAX_PROCESSES)),
        false => Ok(processes),
    }
}

fn few_ended<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Ended>, D::Error> {
    let ended = Vec::deserialize(deserializer)?;
    match ended.len() > MAX_ENDED {
        true => Err(too_many(ended.len(), "ends", MAX_ENDED)),
        false => Ok(ended),
    }
}

fn too_many<E: serde::de::Error>(count: usize, what: &str, most: usize) -> E {
    E::custom(format!("{count} {what}: at most {most}"))
}

fn few_exports<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeSet<ExportName>, D::Error> {
    let exports = BTreeSet::deserialize(deserializer)?;
    match exports.len() > MAX_EXPORTS {
        true => Err(too_many(exports.len(), "exports", MAX_EXPORTS)),
        false => Ok(exports),
    }
}
