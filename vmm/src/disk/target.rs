//! Which disk, and as whom.

use std::fmt;

use disk_server::arbiter::ServerAddress;
use disk_server::nbd::ClientTag;

/// An export of a disk server, opened plainly, by a client that says who it is, or as the writer of
/// an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTarget {
    /// Where the server's block device service listens.
    pub server: ServerAddress,
    /// Name of the export.
    pub export: String,
    /// The virtual machine and its epoch, for the host that runs it in a pair. Every connection
    /// that it opens ends the right to write of its earlier ones, and a later epoch that of all.
    pub writer: Option<Writer>,
    /// Who opens it plainly, if the server is to know that: then a new connection ends the right to
    /// write of the earlier ones, too.
    pub client: Option<ClientTag>,
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
        match (&self.writer, self.client) {
            (None, None) => self.export.clone(),
            (None, Some(tag)) => format!("{}@~{tag}", self.export),
            (Some(Writer { vm, epoch }), _) => format!("{}@{vm}:{epoch}", self.export),
        }
    }
}

impl fmt::Display for DiskTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nbd://{}/{}", self.server, self.export_name())
    }
}
