//! What ftvm's programs give up, so that whoever gets one of them to do his bidding gets little.
//!
//! A [`Confinement`] begins before the process has threads, since Linux confines threads and not processes: a
//! thread gets what its parent has. It becomes narrower when the program has started and has open what it needs:
//!
//! | | files and ports, by Landlock | capabilities |
//! | --- | --- | --- |
//! | from the beginning | what is needed for a start, or later | those for a start |
//! | when it has started | what is needed later | none |
//!
//! No program of others can be executed, from the beginning. What a host's kernel cannot do is told in the log,
//! and is no reason not to run a guest.

mod capabilities;
mod reach;

use landlock::BitFlags;
use parking_lot::Mutex;
use rustix::thread::CapabilitySet;

pub use crate::capabilities::Capability;
pub use crate::reach::{Ports, Reach, Use};

/// What a process may still do.
#[derive(Debug)]
pub struct Confinement {
    later: Reach,
    /// Capabilities that no limit could take the place of.
    without_limit: CapabilitySet,
    /// What is not confined, and why, until that is told.
    open: Mutex<Vec<String>>,
}

impl Confinement {
    /// Confines the calling thread, and those that it starts, to what is needed for a `start`, or `later`, and to
    /// these capabilities. To be called before there is another thread.
    ///
    /// Limits take the place of CAP_IPC_LOCK and CAP_SYS_NICE. A process that has these and must not raise its
    /// limits, as in some containers, keeps them.
    #[must_use]
    pub fn begin(start: Reach, later: Reach, capabilities: &[Capability]) -> Self {
        let mut open = Vec::new();
        let without_limit = capabilities::become_limits();
        let needed = capabilities::set_of(capabilities) | without_limit;
        if let Err(error) = capabilities::keep(needed) {
            open.push(format!("this process keeps its capabilities: {error}"));
        }
        match start.and(&later).enforce(reach::scopes()) {
            Ok(lacking) => open.extend(lacking),
            Err(error) => open.push(error.to_string()),
        }
        Self {
            later,
            without_limit,
            open: Mutex::new(open),
        }
    }

    /// The program has started: confines the calling thread, and those that it starts from now on, to what is
    /// needed later, without capabilities. Linux 7.0 confines the other threads, too.
    pub fn has_started(&self) {
        for open in std::mem::take(&mut *self.open.lock()) {
            log::warn!("{open}");
        }
        if let Err(error) = self.later.enforce(BitFlags::EMPTY) {
            log::debug!("{error}");
        }
        if let Err(error) = capabilities::keep(self.without_limit) {
            log::debug!("this thread keeps its capabilities: {error}");
        }
    }
}
