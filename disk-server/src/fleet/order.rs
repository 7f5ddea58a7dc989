//! What the service has a run of ftvm do.

use serde::{Deserialize, Serialize};

use crate::arbiter::VmName;
use crate::views::Proposal;

/// Counts what operators have asked for, so that of two the later one is known.
pub type OrderNumber = u64;

/// To the run of ftvm whose ping it answers, and nobody else. It is given again with every answer for as
/// long as it holds; one that was carried out, or cannot be, is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// To an idle host, or a host's daemon: be this guest's next backup.
    Join(Box<Proposal>),
    /// To a host's daemon: start the guest anew, as long as its epoch is this one.
    Start {
        /// The guest.
        vm: VmName,
        /// The epoch from which it is claimed, whoever held that.
        epoch: u64,
    },
    /// To a primary: let the backup of this view go on with the guest.
    HandOver {
        /// The view.
        view: u64,
    },
    /// To a backup: end. The primary goes on alone.
    Leave {},
    /// To a primary: end the guest in order.
    Stop {},
    /// To a primary: die at once, as if by SIGKILL, if the guest is protected in this view.
    Die {
        /// The view.
        view: u64,
    },
}
