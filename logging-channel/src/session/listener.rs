//! The primary's side of the handshake.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use transport::{Endpoint, Peer, Stream, Versions};

use super::door::{Door, Visitor};
use super::patient::{CANCEL_TICK, Patient};
use super::{Admission, SessionInfo, at_port, nonce};
use crate::handshake::{Hello, Message, Refusal, RefusalCode, Title, Welcome};
use crate::host::HostReport;
use crate::identity::Identity;
use crate::memory::MOST_STREAMS;
use crate::sender::Sender;
use crate::settings::{HEARTBEAT_TIMEOUTS, Settings};

/// The primary's port for the log, TCP for the log itself and UDP for heartbeats.
///
/// Bound to one address, it uses the same port number for both. Bound to every address
/// (`0.0.0.0`), heartbeats use a port of their own, which the handshake tells.
///
/// A guest has one backup at a time: who comes at another time is refused with a reason.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    udp: UdpSocket,
    door: Door,
}

/// Why the logging port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has it.
    #[error(
        "{protocol} port {address} is in use: stop the program that has it (`ss -tulpn` names it) or choose another logging port (`--listen`)"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// "TCP" or "UDP".
        protocol: &'static str,
    },
    /// The address is not this host's.
    #[error(
        "{address} is not an address of this host: give one that `ip address` shows on the logging network"
    )]
    NotOurs {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen for a backup at {protocol} {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// "TCP" or "UDP".
        protocol: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why no backup was accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The caller gave up.
    #[error("no longer waiting for a backup")]
    Cancelled,
    /// The heartbeat timeout makes no sense.
    #[error("a heartbeat timeout of {} ms: set one from 5 ms to an hour", timeout.as_millis())]
    HeartbeatTimeout {
        /// The timeout.
        timeout: Duration,
    },
    /// This primary must not run the guest any more.
    #[error("this host may not run the guest any more: {0}")]
    NotEntitled(String),
    /// A session cannot begin.
    #[error("this host cannot serve a backup: {0}")]
    Begin(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for a backup")]
    Io(#[from] io::Error),
}

impl BindError {
    fn new(address: SocketAddr, protocol: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address, protocol },
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
            _ => BindError::Io {
                address,
                protocol,
                source,
            },
        }
    }
}

impl Listener {
    /// Opens the port, for those whom `endpoint` trusts. With port 0, any that is free for TCP and UDP.
    pub fn bind(address: SocketAddr, endpoint: &Endpoint) -> Result<Self, BindError> {
        // A port that is free for TCP may be taken for UDP. Chance should not fail more often.
        const TRIES: usize = 16;
        let mut tries = if address.port() == 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp_error = |source| BindError::new(address, "TCP", source);
            let tcp = TcpListener::bind(address).map_err(tcp_error)?;
            let bound = tcp.local_addr().map_err(tcp_error)?;
            match UdpSocket::bind(bound) {
                Ok(udp) => {
                    return Ok(Self {
                        address: bound,
                        udp,
                        door: Door::new(tcp, endpoint.clone()).map_err(tcp_error)?,
                    });
                }
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(BindError::new(bound, "UDP", source)),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a backup that fits connects, or until `cancel` is set. Others are refused with
    /// a reason, which is also logged: another VM, or a host that cannot do what is required, here
    /// or there. `host` says what this host can do. Without `cancel` the wait costs nothing.
    ///
    /// `title` is asked of each that is for this VM, for its own arbiter to confirm, and is told who it is, as its key
    /// proves; in place of one it says why that backup cannot be taken, or none now. When the backup is ready, `admit` has this side's arbiter
    /// move to an epoch with that backup: it is told as whom that one claims, and who it is, as its key proves. A
    /// primary that has lost its right meanwhile, perhaps to a backup that came before, must not begin. Nothing is given to a backup
    /// before.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn accept_backup(
        &mut self,
        identity: &Identity,
        host: &HostReport,
        mut title: impl FnMut(Option<&Peer>) -> Result<Title, Refusal>,
        settings: &Settings,
        cancel: Option<&AtomicBool>,
        mut admit: impl FnMut(&str, Option<&Peer>) -> Admission,
    ) -> Result<Sender, AcceptError> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        let timeout = settings.heartbeat_timeout;
        if !HEARTBEAT_TIMEOUTS.contains(&timeout) {
            return Err(AcceptError::HeartbeatTimeout { timeout });
        }
        let patience = settings.handshake_timeout;
        let tick = cancel.map(|_| CANCEL_TICK);
        let cancel = cancel.unwrap_or(&NEVER);
        let door = &mut self.door;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(AcceptError::Cancelled);
            }
            let Some(visitor) = door.next(tick, patience)? else {
                continue;
            };
            let fits = match identity.difference(&visitor.hello.identity) {
                Some(differs) => Err(differs),
                None => title(visitor.stream.peer()),
            };
            let title = match (fits, host.shortfall(&visitor.hello.host)) {
                (Ok(title), None) => title,
                (Err(refusal), _) | (Ok(_), Some(refusal)) => {
                    door.refuse(visitor.stream, visitor.peer, &refusal, patience);
                    continue;
                }
            };
            let peer = visitor.peer;
            let mut candidate =
                match welcome(visitor, door, host, &self.udp, &title, settings, cancel) {
                    Ok(candidate) => candidate,
                    Err(error) => {
                        door.warn(format_args!("the backup at {peer} went away: {error}"));
                        continue;
                    }
                };
            match admit(&candidate.claimant, candidate.stream.peer()) {
                Admission::Admitted(epoch) => candidate.info.epoch = epoch,
                Admission::NotNow(reason) => {
                    let refusal = Refusal {
                        code: RefusalCode::NotNow,
                        message: reason,
                    };
                    door.refuse(candidate.stream, peer, &refusal, patience);
                    continue;
                }
                Admission::NotEntitled(reason) => return Err(AcceptError::NotEntitled(reason)),
            }
            // Not at once again on a host that cannot: each attempt is an epoch.
            return candidate.begin(settings).map_err(AcceptError::Begin);
        }
    }
}

/// A backup that fits and is still there. Its session has not begun.
struct Candidate {
    stream: Stream,
    memory: Vec<Stream>,
    udp: UdpSocket,
    info: SessionInfo,
    /// Who it is to the arbiter.
    claimant: String,
}

impl Candidate {
    /// Begins the session. Last of all the backup is told: one that was can take the guest over,
    /// so nothing must keep this side from going on with it. With one that has gone it is over at once.
    fn begin(self, settings: &Settings) -> io::Result<Sender> {
        let begin = Message::Begin {
            session: self.info.session,
            epoch: self.info.epoch,
        };
        let bytes = begin.encode(self.info.version).map_err(io::Error::other)?;
        let stream = self.stream.clone();
        let sender = Sender::start(
            self.stream,
            self.memory,
            self.udp,
            self.info,
            settings.clone(),
        )?;
        // Nobody else writes to the stream before the first entry. What cannot be written whole is
        // no message, and is never taken for one.
        if (&stream).write_all(&bytes).is_err() {
            sender.peer_has_gone();
        }
        Ok(sender)
    }
}

/// Tells a backup that it fits, and hears whether it is still there.
fn welcome(
    visitor: Visitor,
    door: &mut Door,
    host: &HostReport,
    udp: &UdpSocket,
    title: &Title,
    settings: &Settings,
    cancel: &AtomicBool,
) -> io::Result<Candidate> {
    let Visitor {
        stream,
        peer,
        hello,
        version,
    } = visitor;
    let Hello {
        run,
        udp_port,
        host: peer_host,
        standby,
        ..
    } = *hello;
    let session = nonce();
    let streams = settings.memory_streams.min(MOST_STREAMS);
    let local = stream.local_addr()?.ip();
    let udp = if udp.local_addr()?.ip().is_unspecified() {
        // Listening on every address: heartbeats must come from the one that the backup dialled,
        // or it does not know them.
        UdpSocket::bind(at_port(local, 0))?
    } else {
        udp.try_clone()?
    };
    let message = Message::Welcome(Welcome {
        run,
        session,
        title: title.clone(),
        heartbeat_timeout: settings.heartbeat_timeout,
        udp_port: udp.local_addr()?.port(),
        streams,
        host: host.clone(),
    });
    let bytes = message.encode(version).map_err(io::Error::other)?;
    (&stream).write_all(&bytes)?;
    let mut patient = Patient {
        stream: &stream,
        deadline: Instant::now() + settings.handshake_timeout,
        cancel,
    };
    let ready = Message::read_from(&mut patient, Versions::only(version));
    let claimant = match ready.map_err(io::Error::other)? {
        Message::Ready {
            session: echoed,
            claimant,
        } if echoed == session => claimant,
        other => {
            return Err(io::Error::other(format!(
                "it answered the welcome with {other:?}"
            )));
        }
    };
    stream.set_nodelay(true)?;
    let memory = door.streams(
        (session, stream.peer()),
        streams,
        cancel,
        settings.handshake_timeout,
    )?;
    udp.connect(at_port(peer.ip(), udp_port))?;
    let info = SessionInfo {
        session,
        version,
        epoch: title.epoch,
        holder: title.holder.clone(),
        heartbeat_timeout: settings.heartbeat_timeout,
        peer,
        authenticated: stream.peer().cloned(),
        peer_host,
        standby,
    };
    Ok(Candidate {
        stream,
        memory,
        udp,
        info,
        claimant,
    })
}
