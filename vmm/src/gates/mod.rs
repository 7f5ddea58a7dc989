//! Where outputs go, by role.
//!
//! - [`Direct`]: out at once; a guest that runs alone.
//! - [`Suppressed`]: nowhere; a backup or a replay.
//! - [`committed`]: out after the backup acknowledged the output's log entry; a primary.

pub mod committed;
mod suppressed;

pub use committed::Committed;
pub use suppressed::{Suppressed, Unreleased};

use logging_channel::entry::Lsn;

use crate::devices::Output;
use crate::engine::OutputGate;
use crate::io::Outlet;

/// Lets everything out at once.
pub struct Direct(pub Outlet);

impl OutputGate for Direct {
    fn submit(&mut self, output: Output, _: Lsn) {
        self.0.perform(&output);
    }
}
