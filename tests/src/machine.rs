//! What a host is made of: an emulated machine, or a namespace of this one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::error::Result;
use crate::layout::Layout;
use crate::namespace_machine::NamespaceMachine;
use crate::network::Fabric;
use crate::qemu::{ProcessId, Qemu};

/// Variable that chooses the kind of hosts: `qemu` or `namespaces`.
pub const HOSTS_VARIABLE: &str = "FTVM_HOSTS";

/// The kinds of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// A QEMU process that emulates a machine with SVM. Works everywhere.
    Qemu,
    /// A network namespace: guests run on this machine's own `/dev/kvm`.
    Namespace,
}

impl HostKind {
    /// What [`HOSTS_VARIABLE`] says; else namespaces where `ftvm doctor` finds
    /// that this machine can run guests, and QEMU where it cannot.
    #[must_use]
    pub fn choose(layout: &Layout) -> Self {
        match std::env::var(HOSTS_VARIABLE).as_deref() {
            Ok("namespaces") => return Self::Namespace,
            Ok("qemu") => return Self::Qemu,
            Ok(other) => log::warn!("{HOSTS_VARIABLE}={other}: `qemu` and `namespaces` are known"),
            Err(_) => {}
        }
        let healthy = Path::new("/dev/kvm").exists()
            && layout.program("ftvm").is_ok_and(|ftvm| {
                Command::new(ftvm)
                    .arg("doctor")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            });
        if healthy { Self::Namespace } else { Self::Qemu }
    }
}

/// What an emulated host has; a namespace has all of this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostSize {
    pub(crate) memory_mib: u32,
    pub(crate) processors: u32,
}

impl HostSize {
    /// Unless somebody needs more.
    pub(crate) const USUAL: Self = Self {
        memory_mib: 1024,
        processors: 1,
    };
}

/// What a host is started with.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) kind: HostKind,
    pub(crate) name: &'a str,
    /// From 1; gives the addresses.
    pub(crate) number: u8,
    pub(crate) fabric: &'a Fabric,
    pub(crate) layout: &'a Layout,
    pub(crate) size: HostSize,
    /// Where its console and other messages go.
    pub(crate) logs: &'a Path,
    /// Whether it outlives us.
    pub(crate) stays: bool,
}

impl Plan<'_> {
    /// Where the console is logged.
    pub(crate) fn console(&self) -> PathBuf {
        console_log(self.logs, self.name)
    }
}

pub(crate) fn console_log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}-console.log"))
}

/// A host's machine.
#[derive(Debug)]
pub(crate) enum Machine {
    Qemu(Qemu),
    Namespace(NamespaceMachine),
}

impl Machine {
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        match plan.kind {
            HostKind::Qemu => Qemu::restore(plan).map(Self::Qemu),
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

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
