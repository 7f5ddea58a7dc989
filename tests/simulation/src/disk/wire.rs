//! Connections to the disk: streams that are delayed, and keep what a cut network does not take.

use std::collections::VecDeque;
use std::time::Duration;

use disk_server::arbiter::Claimant;
use disk_server::nbd::protocol::ErrorCode;
use ftvm_vmm::disk::DiskOp;

use crate::message::ProcessId;

/// What goes over a connection.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// The host opens the disk as the writer of an epoch.
    Open(u64),
    /// A command, by its number.
    Command(u64, DiskOp),
    /// The server has opened it, in the start with this number,
    Opened(u64),
    /// or says that the epoch is over,
    Refused,
    /// or that what came before is not done yet.
    NotYet,
    Answer(u64, Result<Vec<u8>, ErrorCode>),
    /// The server has no such connection any more.
    Gone,
}

impl Item {
    pub(crate) fn is_to_server(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Command(..))
    }
}

/// One way of a connection.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// When the last of what is on its way arrives.
    pub(crate) last: Duration,
    /// What did not get through, and is sent again.
    pub(crate) kept: VecDeque<Item>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) of: ProcessId,
    pub(crate) host: usize,
    pub(crate) by: Claimant,
    /// The host has lost its power since: nothing is sent again.
    pub(crate) is_dead: bool,
    pub(crate) to_server: Way,
    pub(crate) to_client: Way,
}

impl Wire {
    pub(crate) fn new(of: ProcessId, host: usize, by: Claimant) -> Self {
        Self {
            of,
            host,
            by,
            is_dead: false,
            to_server: Way::default(),
            to_client: Way::default(),
        }
    }

    pub(crate) fn way(&mut self, to_server: bool) -> &mut Way {
        match to_server {
            true => &mut self.to_server,
            false => &mut self.to_client,
        }
    }
}
