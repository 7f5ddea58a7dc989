//! What the view service is told of guests.

use super::host::Unfit;
use crate::arbiter::{Claimant, HostName, Record, VmName};

/// What is known of guests besides pings. Of one that nobody looks after, that is the arbiter's record alone,
/// as of a closure.
pub trait Guests {
    /// What the arbiter has of it.
    fn record(&self, vm: &VmName) -> Record;

    /// Who may be proposed as its backup.
    fn candidates(&self, _vm: &VmName) -> Candidates {
        Candidates::Idle
    }

    /// Why operators do not want its backup on this host.
    fn unwanted(&self, _vm: &VmName, _host: &HostName) -> Option<Unfit> {
        None
    }

    /// Whether an operator wants this host empty. A guest that may have its backup there all the same has it there
    /// only as long as no other host could.
    fn is_drained(&self, _host: &HostName) -> bool {
        false
    }

    /// Whether the daemon has something else to do first.
    fn is_busy(&self, _daemon: &Claimant) -> bool {
        false
    }
}

/// Who may be proposed as a guest's backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidates {
    /// Nobody.
    Nobody,
    /// Runs of ftvm that wait to be the backup of this guest.
    Idle,
    /// Those, and the daemons of hosts, which start one.
    IdleAndDaemons,
}

impl<F: Fn(&VmName) -> Record> Guests for F {
    fn record(&self, vm: &VmName) -> Record {
        self(vm)
    }
}
