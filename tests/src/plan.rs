//! What a host is started with, and where it is logged.

use std::path::{Path, PathBuf};

use crate::host_kind::HostKind;
use crate::layout::Layout;
use crate::network::Fabric;

/// How the name of a console's log ends, behind the host's.
const CONSOLE: &str = "-console.log";

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
    /// In what an emulated host's processor is another one than usual, as QEMU's `-cpu` says it.
    pub(crate) processor: Option<&'a str>,
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

    /// The host's own logs: its console, and what QEMU says if it is one.
    pub(crate) fn own_logs(&self) -> [PathBuf; 2] {
        [self.console(), errors_log(self.logs, self.name)]
    }
}

pub(crate) fn console_log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}{CONSOLE}"))
}

/// Whether it is what a host's console said.
pub(crate) fn is_console_log(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(CONSOLE))
}

/// Where QEMU's own messages go.
pub(crate) fn errors_log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}-qemu.log"))
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
