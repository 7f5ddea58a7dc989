//! The wire format: newline-delimited JSON over TCP.
//!
//! ```text
//!     client                                        server
//!       | -- connect ------------------------------> |
//!       | -- {"ftvm":"arbiter","version":4} -------> |   both greet at once, and
//!       | <-- {"ftvm":"arbiter","version":4,       |   both know then what they speak
//!       |      "server":S} ------------------------- |
//!       | -- {"op":"compare_and_set",...} ---------> |
//!       | <--------------- {"answer":"won",...} ---- |   one answer a request, in order
//!       | -- {"op":"ping",...} --------------------> |
//!       | <---------------{"answer":"pinged",...} -- |
//! ```
//!
//! | request | answers |
//! | --- | --- |
//! | `{"op":"compare_and_set","vm":V,"expected_epoch":N,"claimant":C,"next":X}` | `{"answer":"won","epoch":N+1}` or `{"answer":"lost","epoch":E,"holder":H}` |
//! | `{"op":"acknowledge","vm":V,"epoch":N,"holder":H}` | as to `read` |
//! | `{"op":"read","vm":V}` | `{"answer":"record","epoch":E,"holder":H,"backup":B,"acknowledged":A}`; holder null: never claimed |
//! | `{"op":"forget","vm":V}` | `{"answer":"forgotten"}`: V has no record any more |
//! | `{"op":"list","after":V}` (`after` may be left out) | `{"answer":"page","vms":[{"vm":V,"epoch":E,"holder":H,"backup":B,"acknowledged":A},...],"more":M}` |
//! | `{"op":"list_exports","after":E}` (`after` may be left out) | `{"answer":"exports","exports":[...],"more":M}`, each as [`ExportRecord`] |
//! | `{"op":"ping","host":C,"number":N,"carries":{...},"role":{...}}`, as [`Ping`] | `{"answer":"pinged","record":{...},"order":O}`: the record of the host's guest as above (null to a host's daemon), and an [`Order`] or null |
//! | `{"op":"operate","operation":{...}}`, as [`Operation`] | `{"answer":"operated","outcome":{...}}`, as [`fleet::Answer`] |
//! | `{"op":"list_hosts","after":C}` (`after` may be left out) | `{"answer":"hosts","hosts":[...],"more":M}`, each as [`HostRecord`] |
//! | `{"op":"echo"}` | `{"answer":"echo"}` |
//! | anything | `{"answer":"error","code":CODE,"message":TEXT}`, and the connection ends |
//!
//! S is the server's number, 16 hexadecimal digits: whose clients must be the same on both hosts of a
//! pair, and for their disks. A line has at most [`MAX_LINE`] bytes with its newline. V is a [`VmName`], C, H and B are
//! [`Claimant`]s, N and E are integers up to [`MAX_EPOCH`](super::MAX_EPOCH).
//!
//! **Versions.** The greeting's `version` is the oldest that its sender speaks, and `newest` the newest, where that
//! is another one. Everything that follows is of the newest version that both speak; a client that speaks several
//! waits for the server's greeting. A server that has none in common with the client answers the error `version` and
//! acts on nothing that came after the greeting. New fields in greetings and answers are ignored by who does not know
//! them; an unknown field in a request is an error, because a server must not act on half of what
//! was asked. To an operation that the server does not know the answer is `malformed`. An error
//! whose code the client does not know is no outcome: it asks again.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use transport::Versions;

use super::decision::{Next, Record};
use super::names::{Claimant, ServerNumber, VmName};
use crate::fleet::{self, Operation, Order};
use crate::nbd::ExportName;
use crate::views::{HostRecord, Ping};

/// The newest version that is released.
pub(super) const RELEASED: u16 = 4;
/// The versions that this crate speaks.
pub const VERSIONS: Versions = Versions {
    oldest: 4,
    // The build for tests of upgrades has one more, with a field of its own.
    newest: RELEASED + cfg!(feature = "next-protocol") as u16,
};
/// What the greeting's `ftvm` field says.
pub const SERVICE: &str = "arbiter";
/// The most bytes of a line, with its newline.
pub const MAX_LINE: usize = 16 << 10;
/// The most virtual machines in one `page` answer: what fits into a line when all names are as
/// long as can be and consist of characters that JSON escapes.
pub const PAGE: usize = 5;

/// The first line of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`SERVICE`].
    pub ftvm: String,
    /// The oldest version that the sender speaks.
    pub version: u16,
    /// The newest; left out where that is the oldest too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u16>,
    /// Which server it is; left out by clients, and by servers before they had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerNumber>,
}

impl Greeting {
    /// A client's greeting.
    #[must_use]
    pub fn ours() -> Greeting {
        Greeting {
            ftvm: SERVICE.to_owned(),
            version: VERSIONS.oldest,
            newest: (VERSIONS.newest != VERSIONS.oldest).then_some(VERSIONS.newest),
            server: None,
        }
    }

    /// Which versions its sender speaks.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            oldest: self.version,
            newest: self.newest.unwrap_or(self.version),
        }
    }

    /// The version that is spoken with its sender, if there is one that both sides know.
    pub(crate) fn common(&self) -> Option<u16> {
        let is_ours = self.ftvm == SERVICE;
        is_ours.then(|| VERSIONS.common(self.versions())).flatten()
    }

    /// The greeting of a server.
    #[must_use]
    pub fn of(server: ServerNumber) -> Greeting {
        Greeting {
            server: Some(server),
            ..Greeting::ours()
        }
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Move the epoch of `vm` from `expected_epoch` to the next one.
    CompareAndSet {
        /// Whose epoch.
        vm: VmName,
        /// The epoch that the claimant lived in.
        expected_epoch: u64,
        /// Who asks.
        claimant: Claimant,
        /// For what.
        next: Next,
    },
    /// Note that the backup of this view has taken over, and tell the record.
    Acknowledge {
        /// Whose view.
        vm: VmName,
        /// Its number.
        epoch: u64,
        /// Who holds it.
        holder: Claimant,
    },
    /// Tell the record of `vm`.
    Read {
        /// Whose record.
        vm: VmName,
    },
    /// Remove the record of `vm`, which has stopped and whose disks are not exported.
    Forget {
        /// Whose record.
        vm: VmName,
    },
    /// Tell up to [`PAGE`] records, in the order of names.
    List {
        /// Begin behind this name.
        #[serde(default)]
        after: Option<VmName>,
    },
    /// Tell as many exports as fit into a line, in the order of names.
    ListExports {
        /// Begin behind this name.
        #[serde(default)]
        after: Option<ExportName>,
    },
    /// Take note of a host, and tell what it is to do.
    Ping(Ping),
    /// Do what an operator asks.
    Operate {
        /// What.
        operation: Operation,
    },
    /// Tell as many hosts as fit into a line, in the order of names.
    ListHosts {
        /// Begin behind this name.
        #[serde(default)]
        after: Option<Claimant>,
    },
    /// Say that you are there.
    Echo {},
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// The claimant holds this epoch, durably.
    Won {
        /// The epoch won.
        epoch: u64,
    },
    /// The claimant does not hold the epoch that it asked for.
    Lost {
        /// The current epoch.
        epoch: u64,
        /// Who holds it.
        holder: Option<Claimant>,
    },
    /// The record of the machine asked for: nobody holds one that was never claimed. To be its holder is
    /// no win: writes of an earlier epoch may be under way until a claim is answered.
    Record(Record),
    /// The machine has no record any more.
    Forgotten {},
    /// Some records.
    Page {
        /// The records.
        vms: Vec<VmRecord>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// Some exports.
    Exports {
        /// The exports.
        exports: Vec<ExportRecord>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// The host is noted.
    Pinged {
        /// The record of its guest; `None` to a host's daemon.
        record: Option<Record>,
        /// What it is to do.
        order: Option<Order>,
    },
    /// What an operator asked for is done, or being done.
    Operated {
        /// What came of it.
        outcome: fleet::Answer,
    },
    /// Some hosts.
    Hosts {
        /// The hosts.
        hosts: Vec<HostRecord>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// The server is there.
    Echo {},
    /// The server cannot do what was asked, and ends the connection.
    Error {
        /// Which kind of error, for programs.
        code: ErrorCode,
        /// The same for people.
        message: String,
    },
}

/// One record in a [`Response::Page`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Whose record.
    pub vm: VmName,
    /// What is known of it.
    #[serde(flatten)]
    pub record: Record,
}

/// One export in a [`Response::Exports`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// What NBD clients call it.
    pub name: ExportName,
    /// The file or device, for people: of a very long path only the end, behind `…`.
    pub path: Option<String>,
    /// In bytes.
    pub size: u64,
    /// Nobody may write.
    pub read_only: bool,
    /// The machine that owns it, if one does.
    pub owner: Option<Owner>,
    /// NBD connections that are open.
    pub connections: u64,
    /// How many requests to modify it were refused since the server started because their
    /// connection's right had ended: its epoch was over, a newer connection had taken over, or a
    /// machine ran on the export. Nothing of them was done.
    pub refused_requests: u64,
    /// How many connections in the name of an epoch were refused since the server started, because
    /// the epoch was not the current one, or nobody ran the machine in it.
    pub refused_connections: u64,
}

/// The machine that owns an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The machine.
    pub vm: VmName,
    /// Its epoch, as the fence of its disks has it.
    pub epoch: u64,
    /// Somebody runs it in this epoch.
    pub runs: bool,
}

/// More than what is around the records of a page: the most, 72 bytes with the newline, are around a journal's,
/// `{"answer":"operated","outcome":{"history":{"entries":[` and `],"more":false}}}`.
const AROUND_PAGE: usize = 80;

/// As many of `all` as fit into a line, and whether there are more.
pub(crate) fn page<T: Serialize>(all: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let mut room = MAX_LINE - AROUND_PAGE;
    let mut some = Vec::new();
    for record in all {
        // With a newline, which stands for the comma.
        let len = encode(&record).len();
        if len > room {
            return (some, true);
        }
        room -= len;
        some.push(record);
    }
    (some, false)
}

/// The kinds of [`Response::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no request.
    Malformed,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The client took too long over a line.
    TimedOut,
    /// The server does not speak this version.
    Version,
    /// Not now: the server has as many connections as it may have, or waits for its disks. A claim
    /// may have been decided, and must not be answered yet. Asking again helps.
    Busy,
    /// The request cannot be granted as things are; the message says why.
    Refused,
    /// The server keeps as many virtual machines, or hosts that ping, as it may.
    Full,
    /// Whoever asks may not ask for that; the message says why.
    Denied,
    /// The server's disk fails it.
    Storage,
    /// A kind that this crate does not know: one of a later server. Nothing is known of the request;
    /// it may be repeated.
    #[serde(other)]
    Unknown,
}

/// A message as a line, with its newline.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    // Serialising plain data into memory cannot fail; were it to, an empty line is malformed to
    // the other side, which then ends the connection.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}
