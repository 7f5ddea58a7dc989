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

mod line;
pub(crate) mod negotiation;
mod replies;
mod requests;
#[cfg(test)]
mod tests;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use transport::{Endpoint, Mode, Opening, Patience, Stream};

pub use negotiation::{ConnectError, Export};
pub use replies::{ReceiveError, Replies, Reply};
pub use requests::Requests;

use crate::arbiter::ServerAddress;
use crate::stream::{self, SERVERS};
use line::Line;
use negotiation::Negotiation;

/// How long a server's host may leave what was sent without an acknowledgement of its TCP, or a
/// probe of a silent connection without an answer, before it counts as lost. A server that is only
/// slow acknowledges all the same.
const DEAD_HOST: Duration = Duration::from_secs(6);

/// A connection without traffic is probed after so many seconds, and every second from then on.
const PROBE_AFTER_SECONDS: u32 = 3;

/// How long a send may wait for a server that reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Opens `export` on the server at `address`, with the key of `endpoint`, within `timeout`. Besides `NAME`, our own server knows
/// the forms of [`RequestedExport`](crate::nbd::RequestedExport).
///
/// # Errors
/// [`ConnectError`].
pub fn connect(
    address: &ServerAddress,
    export: &str,
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<Connection, ConnectError> {
    let deadline = Instant::now() + timeout;
    let socket = stream::connect(address, deadline)
        .and_then(|socket| notice_dead_hosts(&socket).map(|()| Arc::new(socket)))
        .map_err(|source| ConnectError::Unreachable {
            address: address.clone(),
            source,
        })?;
    let broken = |source| ConnectError::Broken {
        address: address.clone(),
        export: export.to_owned(),
        source,
    };
    let clear = Stream::plain(socket.clone());
    let negotiation = Negotiation::new(&clear, address, export, deadline);
    negotiation.greet()?;
    let stream = match endpoint.mode() {
        Mode::Plain => clear,
        Mode::Secure => {
            negotiation.start_tls()?;
            let patience = Patience {
                deadline,
                cancel: None,
            };
            let called = endpoint.call(socket, Opening::Bare, SERVERS, patience);
            called.map_err(|source| ConnectError::Unopened {
                address: address.clone(),
                source,
            })?
        }
    };
    let agreed = Negotiation::new(&stream, address, export, deadline).run()?;
    stream.set_read_timeout(None).map_err(broken)?;
    stream
        .set_write_timeout(Some(SEND_TIMEOUT))
        .map_err(broken)?;
    let line = Arc::new(Line::new(stream.clone()));
    let read_flags = agreed.read_flags();
    Ok(Connection {
        export: agreed.export,
        name: agreed.told.name,
        boot: agreed.told.boot,
        requests: Requests::new(stream.clone(), line.clone(), read_flags),
        replies: Replies::new(stream, line, agreed.structured),
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
