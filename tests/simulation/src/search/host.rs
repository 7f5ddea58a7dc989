//! A host and what runs on it.

use disk_server::arbiter::Claimant;
use ftvm_vmm::protocol::epoch::{Core, Task};
use ftvm_vmm::protocol::follower::Follower;
use ftvm_vmm::protocol::live::Live;
use logging_channel::entry::Lsn;

/// What the guest has lived through: for each request that it counted, the run of `ftvm` in which it did.
pub(super) type Guest = Vec<u8>;

/// What a log has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// The whole state.
    State(Guest),
    Protected,
    Counted(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// Which run of `ftvm` it is, of all hosts.
    pub(super) run: u8,
    pub(super) process: Process,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Process {
    /// There is none.
    Off,
    /// It wants to join the guest of this host, in this run.
    Waits(usize, u8),
    Follows(Box<Follows>),
    Runs(Box<Runs>),
}

/// The owner of an epoch, and its question to the disk server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) core: Core,
    pub(super) asked: Option<Task>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Follows {
    pub(super) owner: Owner,
    pub(super) follower: Follower,
    pub(super) guest: Guest,
    /// Whose log it is.
    pub(super) of: (usize, u8),
    /// What was sent and has not come.
    pub(super) log: Vec<Entry>,
    pub(super) received: u64,
    /// Nothing comes any more, or goes.
    pub(super) cut: bool,
    /// It has replayed all, and claims.
    pub(super) over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    pub(super) owner: Owner,
    pub(super) live: Live,
    pub(super) guest: Guest,
    /// Replies that have not left: the entry of each, and how much was counted then.
    pub(super) held: Vec<(Lsn, usize)>,
    /// What a thread has decided to let out: up to this entry, with a lease or without.
    pub(super) decided: Option<(Lsn, bool)>,
    pub(super) session: Option<Session>,
}

/// The session with a backup, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) with: (usize, u8),
    pub(super) acked: u64,
    pub(super) lost: bool,
    /// The backup cannot have taken this host for lost.
    pub(super) lease: bool,
}

impl Host {
    pub(super) fn off() -> Self {
        Self {
            run: 0,
            process: Process::Off,
        }
    }

    pub(super) fn owner(&mut self) -> Option<&mut Owner> {
        match &mut self.process {
            Process::Follows(it) => Some(&mut it.owner),
            Process::Runs(it) => Some(&mut it.owner),
            Process::Off | Process::Waits(..) => None,
        }
    }

    /// Whether the guest goes on as long as this host does.
    pub(super) fn is_copy(&self) -> bool {
        match &self.process {
            Process::Runs(_) => true,
            Process::Follows(it) => it.follower.is_protecting(),
            Process::Off | Process::Waits(..) => false,
        }
    }
}

impl Runs {
    pub(super) fn alone(owner: Owner, guest: Guest) -> Self {
        // What the lost one may not have let out.
        let held = match guest.len() {
            0 => Vec::new(),
            counted => vec![(Lsn(0), counted)],
        };
        Self {
            owner,
            live: Live::alone(Lsn(0)),
            guest,
            held,
            decided: None,
            session: None,
        }
    }
}

/// Who a run on a host is to the disk server.
pub(super) fn claimant(host: usize, run: u8) -> Claimant {
    format!("{host}/{run}").parse().expect("a claimant")
}
