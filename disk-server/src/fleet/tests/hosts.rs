//! Hosts, as they are between two seconds.

use std::collections::BTreeMap;

use crate::arbiter::{Claimant, VmName};
use crate::views::{Ended, Phase, Proposal, WentLive};

pub(super) const GUEST_MIB: u64 = 1024;

/// A run of `ftvm primary` or `ftvm backup`.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) claimant: Claimant,
    pub(super) number: u64,
    pub(super) does: Does,
    /// It does nothing, and does not know it.
    pub(super) is_frozen: bool,
    /// It runs on, and the service does not hear of it.
    pub(super) is_cut_off: bool,
    pub(super) went_live: Option<WentLive>,
    /// How it says it is, and by how many milliseconds its backup lags, in place of how things are.
    pub(super) says: Option<(Phase, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Does {
    /// It is about to claim the guest from this epoch.
    Starts { from: u64 },
    /// It runs the guest.
    Runs {
        epoch: u64,
        backup: Option<Claimant>,
        protected: bool,
    },
    /// It is about to connect.
    Connects(Proposal),
    /// It is the backup.
    Follows {
        primary: Claimant,
        epoch: u64,
        protected: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) daemon: Option<Daemon>,
    pub(super) memory_mib: u64,
    pub(super) processes: BTreeMap<VmName, Process>,
    /// Its pings, and its processes', do not come.
    pub(super) is_cut_off: bool,
    /// Connections to primaries elsewhere fail.
    pub(super) logging_is_down: bool,
    /// Processes end at once with this status.
    pub(super) fails_with: Option<i32>,
    /// Processes are started, and do nothing.
    pub(super) hangs: bool,
    /// Which machine has its name.
    pub(super) machine: String,
    pub(super) ends: u64,
    pub(super) untold: Vec<Ended>,
}

#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) claimant: Claimant,
    pub(super) number: u64,
}
