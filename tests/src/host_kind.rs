//! The kinds of hosts, and which of them this machine can have.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::layout::Layout;

/// Variable that chooses the kind of hosts: `qemu` or `namespaces`.
pub const HOSTS_VARIABLE: &str = "FTVM_HOSTS";

/// The kinds of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// A QEMU process that emulates a machine with SVM. Works everywhere.
    Qemu,
    /// The same with a Debian as it was just installed: systemd, apt, and nothing of ftvm's. It has a disk of its own,
    /// and boots anew in place of being restored.
    Debian,
    /// A network namespace: guests run on this machine's own `/dev/kvm`.
    Namespace,
}

impl HostKind {
    /// What [`HOSTS_VARIABLE`] says; else namespaces where `ftvm doctor` finds
    /// that this machine can run guests and replicate them, and QEMU where it cannot.
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
