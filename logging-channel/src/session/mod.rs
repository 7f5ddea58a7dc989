//! How a primary and its backup find each other: the primary listens, the backup connects, and
//! both agree that they fit before anything runs. The messages are in [`crate::handshake`].

mod connect;
mod door;
mod listener;
mod patient;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use transport::{Opening, Peer, Role, Service};

use crate::handshake::Standby;
use crate::host::HostReport;

pub use connect::ConnectError;
#[cfg(any(test, fuzzing))]
pub(crate) use door::fuzzing::{Heard, hear};
pub use listener::{AcceptError, BindError, Listener};

/// What both sides agreed on in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Random number of this session.
    pub session: u64,
    /// The version of the protocol that both sides speak.
    pub version: u16,
    /// The primary's epoch with this backup.
    pub epoch: u64,
    /// As whom it held that.
    pub holder: String,
    /// Silence after which either side takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// The peer's end of the TCP connection.
    pub peer: SocketAddr,
    /// Who the peer is, as its key proves; `None` where both were asked to do without keys.
    pub authenticated: Option<Peer>,
    /// What the peer's host can do.
    pub peer_host: HostReport,
    /// What the backup does with the log.
    pub standby: Standby,
}

impl SessionInfo {
    /// The peer's address, who it is and which version is spoken with it, for people.
    #[must_use]
    pub fn peer_in_words(&self) -> String {
        let (peer, version) = (self.peer, self.version);
        match &self.authenticated {
            Some(who) => format!("{peer} ({who}, protocol {version})"),
            None => format!("{peer} (plain, protocol {version})"),
        }
    }
}

/// What the arbiter says of a primary's right to run its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The primary holds its epoch.
    Held,
    /// There is no answer now, for this reason.
    Unknown(String),
    /// The primary does not hold it, or not any more, for this reason.
    NotHeld(String),
}

/// What a primary's arbiter says of a backup that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The primary has this epoch, with the backup.
    Admitted(u64),
    /// It has not, for this reason: the backup is to come again.
    NotNow(String),
    /// The primary may not run the guest any more, for this reason.
    NotEntitled(String),
}

/// How a connection to a logging port is opened,
const OPENING: Opening = Opening::Preface(Service::Log);

/// and who may be at either end of it.
const ENDS: &[Role] = &[Role::Host];

/// A random number that no other session has.
fn nonce() -> u64 {
    getrandom::u64().expect("the system has random numbers")
}

/// The address of `ip` at `port`.
fn at_port(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}
