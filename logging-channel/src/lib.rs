//! ftvm's log: entries, wire format, file format, and the channel that carries them to the backup.
//!
//! - [`entry`]: what is logged.
//! - [`codec`]: entries as bytes, in batches.
//! - [`record`]: a log in a file.
//! - [`session`]: how a primary and its backup find each other and agree that they fit.
//! - [`sender`], [`receiver`]: the two ends of a running session.
//! - [`heartbeat`]: how each side learns that it lost the other.
//! - [`trial`]: what is logged where there is no guest, to measure all of this.
//! - [`protocol`]: what is decided in all of these, without sockets, threads and clocks.
//!
//! Nothing here knows about KVM, devices or roles. `docs/wire-format.md` has all layouts on one
//! page.

mod bytes;
pub mod codec;
pub mod control;
pub mod entry;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handshake;
pub mod heartbeat;
mod host;
mod identity;
mod instructions;
mod loss;
pub mod memory;
#[cfg(feature = "next-protocol")]
mod next;
pub mod protocol;
pub mod receiver;
pub mod record;
mod refusal;
mod seed;
pub mod sender;
pub mod session;
mod settings;
mod socket;
pub mod times;
pub mod trial;

pub use host::{
    CheckOutcome, HostCheck, HostDifference, HostReport, HostReportError, MAX_CHECK_NAME,
    MAX_CHECKS, MAX_MEASURED, PAGING, SAME_PROCESSORS,
};
pub use identity::{Digest, DiskIdentity, Identity, IdentityError, MAX_DISK_NAME, MAX_VM_NAME};
pub use instructions::{
    InstructionResult, InstructionResults, InstructionResultsError, MAX_INSTRUCTIONS,
};
pub use loss::{ChannelEvent, LossReason};
pub use seed::Seed;
pub use settings::{Keep, LEAST_OUTPUT_TIMEOUT, Settings};
