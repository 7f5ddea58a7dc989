//! NBD, the network block device protocol: what a disk looks like on the wire.
//!
//! The reference is the protocol's own document, `doc/proto.md` of
//! <https://github.com/NetworkBlockDevice/nbd>. Its sections are cited by their titles.
//!
//! - [`protocol`] is the wire format, for either side.
//! - [`RequestedExport`] is what a client names: an export, or an export as its machine's writer.

mod names;
pub mod protocol;

pub use names::{ExportName, ExportNameError, RequestedExport};
