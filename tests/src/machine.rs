//! What a host is made of: an emulated machine, or a namespace of this one.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::debian_boot::DebianBoot;
use crate::error::Result;
use crate::host_kind::HostKind;
use crate::namespace_machine::NamespaceMachine;
use crate::plan::{Plan, tail};
use crate::qemu::{ProcessId, Qemu};
use crate::snapshot::Snapshot;

/// A host's machine.
#[derive(Debug)]
pub(crate) enum Machine {
    Qemu(Qemu),
    Namespace(NamespaceMachine),
}

impl Machine {
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        match plan.kind {
            HostKind::Qemu => {
                // It stays what it is until QEMU has read it.
                let snapshot = Snapshot::current(plan.layout, plan.size)?;
                Qemu::restore(plan, snapshot.directory()).map(Self::Qemu)
            }
            HostKind::Debian => {
                let boot = DebianBoot::prepare(plan)?;
                Qemu::boot_from_disk(plan, &boot).map(Self::Qemu)
            }
            HostKind::Namespace => NamespaceMachine::start(plan).map(Self::Namespace),
        }
    }

    /// The process without which the host is dead.
    pub(crate) fn process(&self) -> ProcessId {
        match self {
            Self::Qemu(qemu) => qemu.id(),
            Self::Namespace(machine) => machine.process(),
        }
    }

    /// Whether it is worth while to ask the agent.
    pub(crate) fn has_booted(&self) -> bool {
        match self {
            Self::Qemu(qemu) => qemu.has_booted(),
            Self::Namespace(_) => true,
        }
    }

    /// Where the host's own messages are logged.
    pub(crate) fn console(&self) -> &Path {
        match self {
            Self::Qemu(qemu) => qemu.console(),
            Self::Namespace(machine) => machine.console(),
        }
    }

    /// The end of what was printed, for error messages.
    pub(crate) fn last_words(&self) -> String {
        match self {
            Self::Qemu(qemu) => qemu.last_words(),
            Self::Namespace(machine) => tail(machine.console()),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match self {
            Self::Qemu(qemu) => {
                qemu.signal(signal);
                Ok(())
            }
            Self::Namespace(machine) => machine.signal(signal),
        }
    }

    /// Lets no time pass for it, where that is possible.
    pub(crate) fn suspend(&self) -> Result<()> {
        match self {
            Self::Qemu(qemu) => qemu.stop(),
            Self::Namespace(machine) => machine.signal(Signal::SIGSTOP),
        }
    }

    /// Lets a suspended one go on.
    pub(crate) fn resume(&self) -> Result<()> {
        match self {
            Self::Qemu(qemu) => qemu.cont(),
            Self::Namespace(machine) => machine.signal(Signal::SIGCONT),
        }
    }

    /// Kills all of it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Qemu(qemu) => qemu.kill(),
            Self::Namespace(machine) => machine.kill(),
        }
    }

    /// Whether the machine's links are veth pairs of a kernel that goes on
    /// when the host's processes do not.
    pub(crate) fn shares_the_kernel(&self) -> bool {
        matches!(self, Self::Namespace(_))
    }
}
