//! The backup's side of the handshake.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::patient::{CANCEL_TICK, Patient};
use super::{SessionInfo, at_port};
use crate::handshake::{HandshakeError, Hello, Message, Refusal, Welcome};
use crate::host::HostReport;
use crate::identity::{Identity, IdentityError};
use crate::receiver::Receiver;
use crate::settings::{HEARTBEAT_TIMEOUTS, Settings};
use crate::socket::nonce;

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// The longest that one attempt to connect may take: packets to a host that is still booting are
/// lost, and TCP's own pauses between attempts grow.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Why there is no session with a primary.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The caller gave up.
    #[error("no longer waiting for the primary")]
    Cancelled,
    /// Nobody answered in time.
    #[error(
        "no primary answered at {address} in time: start it first, and check the address and the logging network"
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
        /// What happened last.
        #[source]
        source: io::Error,
    },
    /// The primary says that this backup does not fit.
    #[error("the primary at {address} refuses this backup: {refusal}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// What answered is not a primary of this version.
    #[error("the handshake with {address} failed")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: HandshakeError,
    },
    /// The VM's identity is not valid.
    #[error("the VM's identity is not valid")]
    Identity(#[from] IdentityError),
    /// This host cannot take part.
    #[error("cannot start the session with {address}")]
    Start {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Receiver {
    /// Connects to the primary at `address`, as the backup of the VM `identity` on a host that can do
    /// what `host` says. Tries again while nobody listens there, until
    /// `deadline` or until `cancel` is set.
    pub fn connect(
        address: SocketAddr,
        identity: &Identity,
        host: &HostReport,
        settings: &Settings,
        deadline: Instant,
        cancel: &AtomicBool,
    ) -> Result<Self, ConnectError> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(ConnectError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConnectError::NoAnswer {
                    address,
                    source: last,
                });
            }
            let attempt = TcpStream::connect_timeout(&address, left.min(ATTEMPT));
            match attempt
                .map(|stream| shake_hands(stream, address, identity, host, deadline, cancel))
            {
                Ok(Ok((stream, udp, info))) => {
                    return Self::start(stream, udp, info, settings.clone())
                        .map_err(|source| ConnectError::Start { address, source });
                }
                // The primary ended, or was not accepting backups when it closed this one.
                Ok(Err(ConnectError::Handshake {
                    source: HandshakeError::Io(source),
                    ..
                })) if !cancel.load(Ordering::Relaxed) => last = source,
                Ok(Err(error)) if cancel.load(Ordering::Relaxed) => {
                    log::debug!("{error}");
                    return Err(ConnectError::Cancelled);
                }
                Ok(Err(error)) => return Err(error),
                Err(error) => last = error,
            }
            thread::sleep(RETRY.min(CANCEL_TICK));
        }
    }
}

fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    identity: &Identity,
    host: &HostReport,
    deadline: Instant,
    cancel: &AtomicBool,
) -> Result<(TcpStream, UdpSocket, SessionInfo), ConnectError> {
    let failed = |source| ConnectError::Handshake { address, source };
    let io_failed = |source| failed(HandshakeError::Io(source));
    let start_failed = |source| ConnectError::Start { address, source };

    let local = stream.local_addr().map_err(io_failed)?;
    let udp = UdpSocket::bind(at_port(local.ip(), 0)).map_err(start_failed)?;
    let udp_port = udp.local_addr().map_err(start_failed)?.port();
    let run = nonce();
    let hello = Message::Hello(Hello {
        identity: identity.clone(),
        host: host.clone(),
        run,
        udp_port,
    });
    stream.set_nodelay(true).map_err(io_failed)?;
    (&stream).write_all(&hello.encode()?).map_err(io_failed)?;

    // The primary may be listening but not yet be waiting for a backup: this waits with it.
    let mut patient = Patient {
        stream: &stream,
        deadline,
        cancel,
    };
    let Welcome {
        session,
        epoch,
        heartbeat_timeout,
        udp_port,
        host: peer_host,
        ..
    } = match Message::read_from(&mut patient).map_err(failed)? {
        Message::Welcome(welcome) if welcome.run != run => {
            return Err(failed(HandshakeError::OtherRun));
        }
        Message::Welcome(welcome) if !HEARTBEAT_TIMEOUTS.contains(&welcome.heartbeat_timeout) => {
            let timeout = welcome.heartbeat_timeout;
            return Err(failed(HandshakeError::Timeout { timeout }));
        }
        Message::Welcome(welcome) => welcome,
        Message::Refuse(refusal) => return Err(ConnectError::Refused { address, refusal }),
        Message::Hello(_) => return Err(failed(HandshakeError::Kind { found: 1 })),
        Message::Ready { .. } => return Err(failed(HandshakeError::Kind { found: 4 })),
    };
    udp.connect(at_port(address.ip(), udp_port))
        .map_err(start_failed)?;
    let ready = Message::Ready { session };
    (&stream).write_all(&ready.encode()?).map_err(io_failed)?;
    let info = SessionInfo {
        session,
        epoch,
        heartbeat_timeout,
        peer: address,
        peer_host,
    };
    Ok((stream, udp, info))
}
