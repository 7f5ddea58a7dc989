//! Which disk, and as whom.

use std::fmt;

use disk_server::arbiter::ServerAddress;

/// An export of a disk server, opened plainly or as the writer of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTarget {
    /// Where the server's block device service listens.
    pub server: ServerAddress,
    /// Name of the export.
    pub export: String,
    /// The virtual machine and its epoch, for the host that runs it in a pair. Every connection
    /// that it opens ends the right to write of its earlier ones, and a later epoch that of all.
    pub writer: Option<Writer>,
}

/// The right to write that an epoch gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The virtual machine.
    pub vm: String,
    /// Its epoch.
    pub epoch: u64,
}

impl DiskTarget {
    /// The same disk, opened as the writer of `epoch`.
    #[must_use]
    pub fn in_epoch(&self, vm: &str, epoch: u64) -> Self {
        Self {
            writer: Some(Writer {
                vm: vm.to_owned(),
                epoch,
            }),
            ..self.clone()
        }
    }

    /// What the server knows it by.
    #[must_use]
    pub fn export_name(&self) -> String {
        match &self.writer {
            None => self.export.clone(),
            Some(Writer { vm, epoch }) => format!("{}@{vm}:{epoch}", self.export),
        }
    }
}

impl fmt::Display for DiskTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nbd://{}/{}", self.server, self.export_name())
    }
}
