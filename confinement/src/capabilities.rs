//! Capabilities (capabilities(7)), and the limits that serve in place of two of them.

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

/// A capability that a program needs for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// To open files of others, as root does.
    DacOverride,
    /// To attach to network interfaces.
    NetAdmin,
    /// To bind to ports below 1024.
    NetBindService,
    /// To count what a guest's kernel does.
    Perfmon,
}

impl Capability {
    fn bit(self) -> CapabilitySet {
        match self {
            Self::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Self::Perfmon => CapabilitySet::PERFMON,
        }
    }
}

/// Those of `kept` as a set.
pub(crate) fn set_of(kept: &[Capability]) -> CapabilitySet {
    let bits = kept.iter().map(|capability| capability.bit());
    bits.fold(CapabilitySet::empty(), |set, bit| set | bit)
}

/// Gives up the calling thread's capabilities but these.
pub(crate) fn keep(kept: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    if kept.contains(had.permitted) && had.inheritable.is_empty() {
        return Ok(());
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: had.effective & kept,
            permitted: had.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// What CAP_IPC_LOCK and CAP_SYS_NICE allow is allowed by limits from now on. Gives those that this process has
/// and has no limit in place of, since it may not raise it.
pub(crate) fn become_limits() -> CapabilitySet {
    let had = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // As the kernel counts them (getrlimit(2)): nice values to -20, and all real-time priorities.
    let limits = [
        (
            CapabilitySet::IPC_LOCK,
            Resource::RLIMIT_MEMLOCK,
            RLIM_INFINITY,
        ),
        (CapabilitySet::SYS_NICE, Resource::RLIMIT_NICE, 40),
        (CapabilitySet::SYS_NICE, Resource::RLIMIT_RTPRIO, 99),
    ];
    let mut left = CapabilitySet::empty();
    for (capability, limit, most) in limits {
        let is_lower = getrlimit(limit).is_ok_and(|(soft, _)| soft < most);
        if had.contains(capability) && is_lower && setrlimit(limit, most, most).is_err() {
            left |= capability;
        }
    }
    left
}
