//! What a server is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use transport::Endpoint;

use crate::export::Export;

/// What a server needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the arbiter listens. Port 0 takes a free one; see
    /// [`Server::local_addr`](super::Server::local_addr).
    pub listen: SocketAddr,
    /// The directory of everything that must survive the process.
    pub state: PathBuf,
    /// The server's key, and whose keys it trusts; or plain, where everybody may everything.
    pub endpoint: Endpoint,
    /// The disks, if there are any.
    pub nbd: Option<NbdConfig>,
    /// Where those who watch the server are told metrics, in the clear, if they are. Port 0 takes a free one; see
    /// [`Server::metrics_addr`](super::Server::metrics_addr).
    pub metrics: Option<SocketAddr>,
    /// What clients may use up.
    pub limits: Limits,
}

/// What a server needs to know to export disks.
#[derive(Debug)]
pub struct NbdConfig {
    /// Where to listen for NBD clients. Port 0 takes a free one; see
    /// [`Server::nbd_addr`](super::Server::nbd_addr).
    pub listen: SocketAddr,
    /// What they can open.
    pub exports: Vec<Export>,
}

/// What clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time, of the arbiter's clients and of NBD clients each.
    pub connections: usize,
    /// How long a connection to the arbiter may be without a request.
    pub idle: Duration,
    /// How long a line may take from its first byte to its last.
    pub line: Duration,
    /// How long an NBD client may take to choose an export.
    pub negotiation: Duration,
    /// How long an NBD request may take from its first byte to its last, and a reply.
    pub message: Duration,
    /// How many requests of one NBD client are under way at a time.
    pub requests: usize,
    /// How long a claim, or a connection that takes over from another one, waits until writes of
    /// others have landed, before it is told to ask again.
    pub clearing: Duration,
    /// How much data the requests of one NBD client that are under way may have together, in bytes.
    /// It is never less than 256 KiB. Longer requests are done in pieces.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            idle: Duration::from_secs(60),
            line: Duration::from_secs(5),
            negotiation: Duration::from_secs(30),
            message: Duration::from_secs(60),
            requests: 16,
            // Less than the patience of our own clients.
            clearing: Duration::from_secs(2),
            memory: 2 << 20,
        }
    }
}
