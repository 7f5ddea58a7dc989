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
use crate::disk::{DiskPort, DiskRequest};
use crate::engine::OutputGate;
use crate::io::Outlet;

/// Lets everything out at once.
pub struct Direct {
    outlet: Outlet,
    disk: Option<Box<dyn DiskPort>>,
}

impl Direct {
    /// A gate to `outlet`, and to `disk` if the machine has one.
    #[must_use]
    pub fn new(outlet: Outlet, disk: Option<Box<dyn DiskPort>>) -> Self {
        Self { outlet, disk }
    }
}

impl OutputGate for Direct {
    fn submit(&mut self, output: Output, _: Option<Lsn>) {
        match output {
            Output::Disk(request) => to_disk(&mut self.disk, request, None),
            output => self.outlet.perform(&output),
        }
    }
}

/// Hands a request on.
fn to_disk(disk: &mut Option<Box<dyn DiskPort>>, request: DiskRequest, commit: Option<Lsn>) {
    disk.as_mut()
        .expect("the gate of a machine with a disk is given one")
        .submit(request, commit);
}
