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
    /// The same with kernels that have `perf_event_paranoid` 3, as Debian's have, and ask for this then.
    SysAdmin,
    /// To lock memory, for which a limit serves, too.
    IpcLock,
    /// To run threads at real-time priority, for which limits serve, too.
    SysNice,
}

impl Capability {
    fn bit(self) -> CapabilitySet {
        match self {
            Self::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Self::Perfmon => CapabilitySet::PERFMON,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::IpcLock => CapabilitySet::IPC_LOCK,
            Self::SysNice => CapabilitySet::SYS_NICE,
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
    // What it has but to give it to programs is of no use, as it executes none.
    if kept.contains(had.permitted) {
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

/// Whether `check` holds without this capability in effect, where the calling thread has it; `true` where it has not.
pub(crate) fn is_dispensable(
    capability: Capability,
    check: impl FnOnce() -> bool,
) -> io::Result<bool> {
    let had = capabilities(None)?;
    if !had.effective.contains(capability.bit()) {
        return Ok(true);
    }
    let effective = had.effective.difference(capability.bit());
    set_capabilities(None, CapabilitySets { effective, ..had })?;
    let holds = check();
    set_capabilities(None, had)?;
    Ok(holds)
}

/// Those that limits serve in place of.
pub(crate) const LIMITS: CapabilitySet = CapabilitySet::IPC_LOCK.union(CapabilitySet::SYS_NICE);

/// What these of [`LIMITS`] allow is allowed by limits from now on. Gives those that this process has, and must not
/// raise the limit of.
pub(crate) fn become_limits(wanted: CapabilitySet) -> CapabilitySet {
    let had = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // As the kernel counts them (getrlimit(2)), what heartbeats have: nice values to -10, and the lowest real-time
    // priority.
    let limits = [
        (
            CapabilitySet::IPC_LOCK,
            Resource::RLIMIT_MEMLOCK,
            RLIM_INFINITY,
        ),
        (CapabilitySet::SYS_NICE, Resource::RLIMIT_NICE, 30),
        (CapabilitySet::SYS_NICE, Resource::RLIMIT_RTPRIO, 1),
    ];
    let mut left = CapabilitySet::empty();
    for (capability, limit, most) in limits {
        let is_lower = getrlimit(limit).is_ok_and(|(soft, _)| soft < most);
        let is_had = (had & wanted).contains(capability);
        if is_had && is_lower && setrlimit(limit, most, most).is_err() {
            left |= capability;
        }
    }
    left
}
