//! What is asked, as far as it matters for who may.

use super::denied::OPERATORS;
use crate::arbiter::protocol::Request;
use crate::arbiter::{Claimant, HostName, Next, VmName};
use crate::fleet::Operation;
use crate::views::Role;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<'a> {
    /// Be told how guests, hosts and disks are.
    Look,
    /// Be told how a guest is defined: with its command line.
    Definition {
        /// The guest.
        vm: &'a VmName,
    },
    /// Run a guest, be its backup, or offer to be: a claim, an acknowledgement, a ping.
    Run {
        /// The guest.
        vm: &'a VmName,
        /// In whose name.
        by: &'a Claimant,
        /// Who is to be its backup.
        backup: Option<&'a Claimant>,
    },
    /// Look after the guests of a host: the ping of a daemon.
    Tend {
        /// In whose name.
        by: &'a Claimant,
    },
    /// Tell how a guest is, as the daemon of a host that has a process of it.
    Tell {
        /// The guest.
        vm: &'a VmName,
    },
    /// Empty a host before it goes down, and let it have guests again: its own word.
    DrainItself {
        /// The host.
        host: &'a HostName,
    },
    /// Change what is wanted of guests and hosts.
    Command,
    /// Open a disk as every NBD client does.
    OpenDisk {
        /// The guest whose disk it is.
        owner: Option<&'a VmName>,
    },
    /// Write to a disk as the host that runs its guest.
    WriteDisk {
        /// The guest.
        vm: &'a VmName,
        /// Who holds its epoch.
        holder: Option<&'a Claimant>,
    },
}

/// What each kind of act is called where acts are counted.
pub const KINDS: [&str; 9] = [
    "look",
    "definition",
    "run",
    "tend",
    "tell",
    "drain_itself",
    "command",
    "open_disk",
    "write_disk",
];

impl<'a> Act<'a> {
    /// Which of [`KINDS`] it is.
    #[must_use]
    pub fn kind(&self) -> usize {
        match self {
            Act::Look => 0,
            Act::Definition { .. } => 1,
            Act::Run { .. } => 2,
            Act::Tend { .. } => 3,
            Act::Tell { .. } => 4,
            Act::DrainItself { .. } => 5,
            Act::Command => 6,
            Act::OpenDisk { .. } => 7,
            Act::WriteDisk { .. } => 8,
        }
    }

    /// What a request to the arbiter asks for.
    #[must_use]
    pub fn of(request: &'a Request) -> Act<'a> {
        match request {
            Request::CompareAndSet {
                vm, claimant, next, ..
            } => Act::Run {
                vm,
                by: claimant,
                backup: match next {
                    Next::With(backup) => Some(backup),
                    Next::Start | Next::Alone | Next::Stopped => None,
                },
            },
            Request::Acknowledge { vm, holder, .. } => Act::Run {
                vm,
                by: holder,
                backup: None,
            },
            Request::Ping(ping) => match &ping.role {
                Role::Host(_) => Act::Tend { by: &ping.host },
                Role::Idle { vm, .. } | Role::Primary { vm, .. } | Role::Backup { vm, .. } => {
                    Act::Run {
                        vm,
                        by: &ping.host,
                        backup: None,
                    }
                }
            },
            Request::Operate { operation } => match operation {
                Operation::Define { .. }
                | Operation::Undefine { .. }
                | Operation::Guest { .. }
                | Operation::Host { .. } => Act::Command,
                Operation::OwnHost { host, .. } => Act::DrainItself { host },
                Operation::Definition { vm } => Act::Definition { vm },
                Operation::Status { .. } | Operation::List { .. } | Operation::History { .. } => {
                    Act::Look
                }
            },
            Request::Forget { .. } => Act::Command,
            Request::Read { .. }
            | Request::List { .. }
            | Request::ListExports { .. }
            | Request::ListHosts { .. }
            | Request::Echo {} => Act::Look,
        }
    }

    /// In words, behind "may not".
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Act::Look => "look at guests and hosts",
            Act::Definition { .. } => "see how a guest is defined",
            Act::Run { .. } => "run guests",
            Act::Tend { .. } => "look after guests",
            Act::Tell { .. } => "tell how a guest is",
            Act::DrainItself { .. } => "drain a host as that host",
            Act::Command => "give commands",
            Act::OpenDisk { .. } => "open disks",
            Act::WriteDisk { .. } => "write to a disk as the host that runs its guest",
        }
    }

    /// Whose key may, in words.
    #[must_use]
    pub fn takes(&self) -> &'static str {
        match self {
            Act::Look | Act::Definition { .. } => "everybody who is listed",
            Act::Run { .. }
            | Act::Tend { .. }
            | Act::Tell { .. }
            | Act::DrainItself { .. }
            | Act::WriteDisk { .. } => "a host",
            Act::Command => OPERATORS,
            Act::OpenDisk { .. } => "a host or an operator",
        }
    }
}
