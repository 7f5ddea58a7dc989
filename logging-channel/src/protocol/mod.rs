//! The two ends of a session as pure machines, without sockets, threads or clocks: what comes from the
//! peer goes in, with the time, and what is to be sent, what may leave and why the peer is lost comes
//! out. [`sender`](crate::sender), [`receiver`](crate::receiver) and the heartbeats' threads drive them,
//! and so does the simulator.
//!
//! - [`PrimaryEnd`]: acknowledgements, what may leave and until when, whether the backup gets on.
//! - [`BackupEnd`]: what is acknowledged, and when.
//! - [`Pulse`]: heartbeats of either end, and silence.

mod backup;
mod primary;
mod pulse;

pub(crate) use backup::REPORT;
pub use backup::{BackupEnd, FromPrimary};
pub use primary::{Appended, Permit, PrimaryEnd};
pub use pulse::{Heard, Pulse};
