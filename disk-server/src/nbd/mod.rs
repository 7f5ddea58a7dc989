//! NBD, the network block device protocol: what a disk looks like on the wire.
//!
//! The reference is the protocol's own document, `doc/proto.md` of
//! <https://github.com/NetworkBlockDevice/nbd>. Its sections are cited by their titles.
//!
//! - [`client`] is a client, for the hosts' virtual machine monitors.
//! - [`protocol`] is the wire format, for either side.
//! - [`RequestedExport`] is what a client names: an export, with a tag if it will
//!   know its own connections again, or an export as its machine's writer.
//! - The rest is the server's side of a connection: options until an export is chosen, then
//!   requests, each of which is checked, done, by a thread of its own if it may have to wait, and
//!   answered. A connection has memory and threads of its own, and waits for no other one.

mod buffers;
pub mod client;
pub(crate) mod haggling;
mod names;
mod negotiation;
pub mod protocol;
mod reply;
pub(crate) mod session;
pub(crate) mod timed;
mod transmission;

pub use names::{ClientTag, ExportName, ExportNameError, RequestedExport};
