//! An NBD client: many requests under way on one connection, answered in any order.
//!
//! [`connect`] gives the two halves of a [`Connection`]: [`Requests`] sends, [`Replies`] receives,
//! each for a thread of its own. What joins a reply to its request is a *cookie*, which the caller
//! chooses and must not use twice at a time.
//!
//! A server is not trusted further than to answer reads with the data that it likes: lengths,
//! offsets and cookies that do not fit a request under way end the connection with a
//! [`ReceiveError`], and nothing that a server says makes this client take more memory than the
//! requests under way ask for.

mod negotiation;
mod replies;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Mutex, MutexGuard};

pub use replies::{ReceiveError, Replies, Reply};
pub use requests::Requests;

use super::protocol::{BlockSize, ProtocolError, ReplyType, TransmissionFlags};
use crate::arbiter::ServerAddress;
use crate::stream;

/// How long a server's host may leave what was sent without an acknowledgement of its TCP, or a
/// probe of a silent connection without an answer, before it counts as lost. A server that is only
/// slow acknowledges all the same.
const DEAD_HOST: Duration = Duration::from_secs(6);

/// A connection without traffic is probed after so many seconds, and every second from then on.
const PROBE_AFTER_SECONDS: u32 = 3;

/// How long a send may wait for a server that reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server told of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// In bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// What offsets, lengths and payloads have to keep to.
    pub blocks: BlockSize,
}

/// Why there is no connection to an export.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the address.
    #[error("cannot connect to the disk server at {address}")]
    Unreachable {
        /// The server.
        address: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or the time was over, before the export was open.
    #[error("the disk server at {address} did not open the export {export:?}")]
    Broken {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// What the system said.
        source: io::Error,
    },
    /// What listens there does not speak NBD as it should.
    #[error("what listens at {address} is not a usable NBD server")]
    Protocol {
        /// The address.
        address: ServerAddress,
        /// What is wrong.
        source: ProtocolError,
    },
    /// It speaks NBD, but not the part of it that is needed.
    #[error("the NBD server at {address} cannot be used: {what}")]
    Unsuitable {
        /// The address.
        address: ServerAddress,
        /// What is missing.
        what: &'static str,
    },
    /// There is no such export.
    #[error(
        "the disk server at {address} has no export {export:?}{}; `nbdinfo --list nbd://{address}` \
         shows those that it has",
        said(message)
    )]
    NoExport {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// What the server said; may be empty.
        message: String,
    },
    /// The server does not want to open it.
    #[error(
        "the disk server at {address} refuses the export {export:?} ({kind:?}){}",
        said(message)
    )]
    Refused {
        /// The server.
        address: ServerAddress,
        /// What was asked for.
        export: String,
        /// The kind of refusal.
        kind: ReplyType,
        /// What the server said; may be empty.
        message: String,
    },
}

impl ConnectError {
    /// Whether the server waits for another option.
    fn leaves_the_choice(&self) -> bool {
        matches!(
            self,
            ConnectError::Unsuitable { .. }
                | ConnectError::NoExport { .. }
                | ConnectError::Refused { .. }
        )
    }
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// An open export.
#[derive(Debug)]
pub struct Connection {
    /// What it is.
    pub export: Export,
    /// What the server calls the disk on whatever way it is reached, if it has such names.
    pub name: Option<String>,
    /// Drawn by the server when it started, if it has such a number: as long as it is the same,
    /// nothing that the server answered is lost.
    pub boot: Option<u64>,
    /// The sending half.
    pub requests: Requests,
    /// The receiving half.
    pub replies: Replies,
}

/// Opens `export` on the server at `address`, within `timeout`. Besides `NAME`, our own server knows
/// the forms of [`RequestedExport`](crate::nbd::RequestedExport).
///
/// # Errors
/// [`ConnectError`].
pub fn connect(
    address: &ServerAddress,
    export: &str,
    timeout: Duration,
) -> Result<Connection, ConnectError> {
    let deadline = Instant::now() + timeout;
    let stream = stream::connect(address, deadline)
        .and_then(|stream| notice_dead_hosts(&stream).map(|()| stream))
        .map_err(|source| ConnectError::Unreachable {
            address: address.clone(),
            source,
        })?;
    let broken = |source| ConnectError::Broken {
        address: address.clone(),
        export: export.to_owned(),
        source,
    };
    let mut negotiation = negotiation::Negotiation::new(&stream, address, export, deadline);
    let agreed = negotiation.run().inspect_err(|error| {
        if error.leaves_the_choice() {
            negotiation.abort();
        }
    })?;
    stream.set_read_timeout(None).map_err(broken)?;
    stream
        .set_write_timeout(Some(SEND_TIMEOUT))
        .map_err(broken)?;
    let receiving = stream.try_clone().map_err(broken)?;
    let line = Arc::new(Line {
        stream: stream.try_clone().map_err(broken)?,
        under_way: Mutex::default(),
    });
    let read_flags = agreed.read_flags();
    Ok(Connection {
        export: agreed.export,
        name: agreed.told.name,
        boot: agreed.told.boot,
        requests: Requests::new(stream, line.clone(), read_flags),
        replies: Replies::new(receiving, line, agreed.structured),
    })
}

/// Without this, a host that died without a word is noticed after a quarter of an hour, or never
/// where nothing is to be sent.
fn notice_dead_hosts(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_AFTER_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &1)?;
    // Also how long probes may go without an answer; their number does not count beside it.
    setsockopt(
        stream,
        sockopt::TcpUserTimeout,
        &(DEAD_HOST.as_millis() as u32),
    )?;
    Ok(())
}

/// What both halves of a connection know.
#[derive(Debug)]
struct Line {
    stream: TcpStream,
    under_way: Mutex<HashMap<u64, Expected>>,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// A read of so many bytes from there.
    Data { offset: u64, len: u32 },
    /// Anything else: no data.
    Nothing,
}

impl Line {
    fn under_way(&self) -> MutexGuard<'_, HashMap<u64, Expected>> {
        self.under_way.lock()
    }

    /// Wakes both halves, which find the connection ended.
    fn close(&self) {
        // An error means that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
