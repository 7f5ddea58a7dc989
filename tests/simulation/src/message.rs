//! What processes say to each other and to the disk server.

use disk_server::arbiter::{Answer, ClaimRequest, Claimant, Record};
use disk_server::views::{Ping, Proposal};
use logging_channel::control::Control;
use logging_channel::entry::Lsn;
use logging_channel::handshake::Title;

use crate::guest::{Logged, MemoryPart};

/// A run of `ftvm`.
pub(crate) type ProcessId = usize;

/// Who a process is to the disk server.
pub(crate) fn claimant(id: ProcessId, host: usize) -> Claimant {
    format!("host{host}/{id}").parse().expect("a claimant")
}

/// Which process that is.
pub(crate) fn process(claimant: &Claimant) -> ProcessId {
    let (_, id) = claimant.as_str().rsplit_once('/').expect("a claimant");
    id.parse().expect("a process")
}

/// What a stream carries.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Hello,
    Welcome {
        session: u64,
        title: Title,
    },
    Ready(Claimant),
    /// With the epoch.
    Begin(u64),
    Batch {
        /// In which its sender has the session. No host reads it: it is there for the checks.
        view: u64,
        first: Lsn,
        entries: Vec<Logged>,
    },
    /// Comes beside the log.
    Memory(MemoryPart),
    Control(Control),
    /// The other end was closed.
    Fin,
    /// There is no other end.
    Reset,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    Read,
    Claim(ClaimRequest),
    Acknowledge { epoch: u64, holder: Claimant },
    Ping(Box<Ping>),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Record(Record),
    Claim(Answer),
    /// A ping was heard; perhaps something is proposed.
    Pinged(Record, Option<Proposal>),
}

/// Where a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It arrives.
    Comes,
    /// It is decided, and that is on the disk.
    Decided,
}

/// A question on its way.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) by: ProcessId,
    pub(crate) host: usize,
    pub(crate) number: u64,
    pub(crate) question: Question,
}
