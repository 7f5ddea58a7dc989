//! The backup's side of the handshake.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use transport::{ConnectionError, Endpoint, Patience, Peer, Stream, Versions};

use super::patient::{CANCEL_TICK, Patient};
use super::{Confirmation, ENDS, OPENING, SessionInfo, at_port, nonce};
use crate::codec::VERSIONS;
use crate::handshake::{HandshakeError, Hello, Message, Refusal, RefusalCode, Title, Welcome};
use crate::host::HostReport;
use crate::identity::{Identity, IdentityError};
use crate::memory::MOST_STREAMS;
use crate::receiver::{Connected, Keeping, Receiver, SpoolError};
use crate::settings::{HEARTBEAT_TIMEOUTS, Settings};

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// The longest that one attempt to connect may take: packets to a host that is still booting are
/// lost, and TCP's own pauses between attempts grow.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The primary asks its arbiter between *Ready* and *Begin*: so many times the time that a peer has
/// for its part of the handshake.
const BEGIN_PATIENCE: u32 = 5;

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
    /// Who answers there has no business with this host, or this host none with it, and that did not change in time.
    #[error("cannot speak with the primary at {address}")]
    Connection {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// The primary says that this backup does not fit.
    #[error("the primary at {address} refuses this backup: {refusal}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The primary has not the right to run the guest.
    #[error("the primary at {address} may not run the guest: {reason}")]
    NotEntitled {
        /// Where.
        address: SocketAddr,
        /// What this host's arbiter says.
        reason: String,
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
    /// A cold backup has no place for what it keeps.
    #[error(transparent)]
    Keep(#[from] SpoolError),
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
    /// Connects to the primary at `address` from `endpoint`, as the backup of the VM `identity` on a host that can do
    /// what `host` says, and that is `claimant` to the arbiter. Tries again until `deadline` or until `cancel` is set,
    /// while nobody listens there, while the session does not begin, or while the two sides do not trust each other: that
    /// may be somebody on the way, or a list that is changed here a moment before it is there.
    ///
    /// `confirm` asks the arbiter about the right that the primary names; it is told who the primary is, as its key
    /// proves.
    pub fn connect(
        (address, endpoint): (SocketAddr, &Endpoint),
        (identity, claimant): (&Identity, &str),
        host: &HostReport,
        settings: &Settings,
        deadline: Instant,
        cancel: &AtomicBool,
        mut confirm: impl FnMut(&Title, Option<&Peer>) -> Confirmation,
    ) -> Result<Self, ConnectError> {
        let caller = Caller {
            address,
            endpoint,
            identity,
            claimant,
            host,
            settings,
            deadline,
            cancel,
        };
        // What is wrong with it is found before anybody is called.
        identity.encode(&mut Vec::new())?;
        let mut keeping = settings.keep.as_ref().map(Keeping::open).transpose()?;
        let no_answer = |source| ConnectError::NoAnswer { address, source };
        let mut last = no_answer(io::ErrorKind::TimedOut.into());
        let mut told = String::new();
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(ConnectError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last);
            }
            let attempt = TcpStream::connect_timeout(&address, left.min(ATTEMPT));
            let next = match attempt.map(|stream| caller.shake_hands(stream, &mut confirm)) {
                Ok(Ok(connected)) => {
                    return Self::start(connected, settings.clone(), keeping.take())
                        .map_err(|source| ConnectError::Start { address, source });
                }
                Ok(Err(error)) if cancel.load(Ordering::Relaxed) => {
                    log::debug!("{error}");
                    return Err(ConnectError::Cancelled);
                }
                // The primary ended, or was not accepting backups when it closed this one.
                Ok(Err(ConnectError::Handshake {
                    source: HandshakeError::Io(source),
                    ..
                })) => no_answer(source),
                // Nobody is there yet.
                Ok(Err(ConnectError::Connection { source, .. })) if has_gone(&source) => {
                    no_answer(source.into())
                }
                Ok(Err(ConnectError::Connection { source, .. })) => {
                    let reason = source.to_string();
                    if told != reason {
                        log::warn!("no session with the primary at {address} for now: {reason}");
                        told = reason;
                    }
                    ConnectError::Connection { address, source }
                }
                // It settles something first.
                Ok(Err(ConnectError::Refused { refusal, .. }))
                    if refusal.code == RefusalCode::NotNow =>
                {
                    ConnectError::Refused { address, refusal }
                }
                Ok(Err(error)) => return Err(error),
                Err(error) => no_answer(error),
            };
            // An attempt that the deadline cuts short says nothing.
            if !(matches!(next, ConnectError::NoAnswer { .. }) && Instant::now() >= deadline) {
                last = next;
            }
            thread::sleep(RETRY.min(CANCEL_TICK));
        }
    }
}

/// Whether the other side did not stay for as long as it takes to say anything.
fn has_gone(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::Io(_) | ConnectionError::HungUp | ConnectionError::TimedOut
    )
}

/// A backup that looks for its primary.
#[derive(Clone, Copy)]
struct Caller<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
    identity: &'a Identity,
    claimant: &'a str,
    host: &'a HostReport,
    settings: &'a Settings,
    deadline: Instant,
    cancel: &'a AtomicBool,
}

impl Caller<'_> {
    fn shake_hands(
        self,
        socket: TcpStream,
        confirm: &mut impl FnMut(&Title, Option<&Peer>) -> Confirmation,
    ) -> Result<Connected, ConnectError> {
        let address = self.address;
        let failed = |source| ConnectError::Handshake { address, source };
        let io_failed = |source| failed(HandshakeError::Io(source));
        let start_failed = |source| ConnectError::Start { address, source };

        socket.set_nodelay(true).map_err(io_failed)?;
        let local = socket.local_addr().map_err(io_failed)?;
        let udp = UdpSocket::bind(at_port(local.ip(), 0)).map_err(start_failed)?;
        let hello = Hello {
            identity: self.identity.clone(),
            host: self.host.clone(),
            run: nonce(),
            udp_port: udp.local_addr().map_err(start_failed)?.port(),
            standby: self.settings.standby(),
        };
        let run = hello.run;
        // The primary may be listening but not yet be waiting for a backup: this waits with it.
        let stream = self.open(socket, self.deadline)?;
        let line = self.agree(&stream)?;
        line.say(Message::Hello(hello))?;

        let Welcome {
            session,
            title,
            heartbeat_timeout,
            udp_port,
            host: peer_host,
            streams,
            ..
        } = match line.hear(self.deadline)? {
            Message::Welcome(welcome) if welcome.run != run => {
                return Err(failed(HandshakeError::OtherRun));
            }
            Message::Welcome(welcome)
                if !HEARTBEAT_TIMEOUTS.contains(&welcome.heartbeat_timeout) =>
            {
                let timeout = welcome.heartbeat_timeout;
                return Err(failed(HandshakeError::Timeout { timeout }));
            }
            Message::Welcome(welcome) => welcome,
            other => return Err(failed(other.unexpected())),
        };
        match confirm(&title, stream.peer()) {
            Confirmation::Held => {}
            Confirmation::Unknown(reason) => return Err(io_failed(io::Error::other(reason))),
            Confirmation::NotHeld(reason) => {
                return Err(ConnectError::NotEntitled { address, reason });
            }
        }
        udp.connect(at_port(address.ip(), udp_port))
            .map_err(start_failed)?;
        let ready = Message::Ready {
            session,
            claimant: self.claimant.to_owned(),
        };
        line.say(ready)?;
        // Only now does the primary look at its port again.
        let memory = self.open_streams(&line, session, streams)?;

        // Before it begins, the primary may have taken another backup, or none: what is lost now is
        // no primary of ours.
        let patience = self.settings.handshake_timeout * BEGIN_PATIENCE;
        let epoch = match line.hear(self.deadline.min(Instant::now() + patience))? {
            Message::Begin {
                session: begun,
                epoch,
            } if begun == session => epoch,
            other => return Err(failed(other.unexpected())),
        };
        let info = SessionInfo {
            session,
            version: line.version,
            epoch,
            holder: title.holder,
            heartbeat_timeout,
            peer: address,
            authenticated: stream.peer().cloned(),
            peer_host,
            standby: self.settings.standby(),
        };
        Ok(Connected {
            stream,
            memory,
            udp,
            info,
        })
    }

    /// Opens a connection until `deadline`.
    fn open(self, socket: TcpStream, deadline: Instant) -> Result<Stream, ConnectError> {
        let address = self.address;
        let patience = Patience {
            deadline,
            cancel: Some(self.cancel),
        };
        self.endpoint
            .call(socket, OPENING, ENDS, patience)
            .map_err(|source| ConnectError::Connection { address, source })
    }

    /// Finds with the primary which version both speak.
    fn agree<'s>(self, stream: &'s Stream) -> Result<Line<'s>, ConnectError>
    where
        Self: 's,
    {
        let line = |version| Line {
            caller: self,
            stream,
            version,
        };
        line(VERSIONS.newest).say(Message::Versions(VERSIONS))?;
        let address = self.address;
        let failed = |source| ConnectError::Handshake { address, source };
        match self.hear(stream, VERSIONS, self.deadline)? {
            Message::Versions(theirs) => match VERSIONS.common(theirs) {
                Some(version) => Ok(line(version)),
                None => Err(failed(HandshakeError::OtherVersion {
                    theirs,
                    ours: VERSIONS,
                })),
            },
            other => Err(failed(other.unexpected())),
        }
    }

    /// Opens the memory streams of a session, to the same one as its `line`.
    fn open_streams(
        self,
        line: &Line<'_>,
        session: u64,
        count: u8,
    ) -> Result<Vec<Stream>, ConnectError> {
        let whom = line.stream.peer();
        if count > MOST_STREAMS {
            let message = Message::Memory {
                session,
                number: count,
            };
            let source = message.unexpected();
            return Err(ConnectError::Handshake {
                address: self.address,
                source,
            });
        }
        let open = |number| {
            let socket = TcpStream::connect_timeout(&self.address, ATTEMPT);
            let socket = socket.map_err(|error| ConnectError::Handshake {
                address: self.address,
                source: HandshakeError::Io(error),
            })?;
            let deadline = Instant::now() + self.settings.handshake_timeout;
            let stream = self.open(socket, self.deadline.min(deadline))?;
            if stream.peer() != whom {
                let other = io::Error::other("another host answers there than a moment ago");
                return Err(ConnectError::Handshake {
                    address: self.address,
                    source: HandshakeError::Io(other),
                });
            }
            let memory = Line {
                stream: &stream,
                ..*line
            };
            memory.say(Message::Memory { session, number })?;
            Ok(stream)
        };
        (0..count).map(open).collect()
    }

    /// The primary's next message, if it is not a refusal.
    fn hear(
        self,
        stream: &Stream,
        spoken: Versions,
        deadline: Instant,
    ) -> Result<Message, ConnectError> {
        let address = self.address;
        let mut patient = Patient {
            stream,
            deadline,
            cancel: self.cancel,
        };
        match Message::read_from(&mut patient, spoken) {
            Ok(Message::Refuse(refusal)) => Err(ConnectError::Refused { address, refusal }),
            Ok(message) => Ok(message),
            Err(source) => Err(ConnectError::Handshake { address, source }),
        }
    }
}

/// A connection to a primary, on which one version is spoken.
#[derive(Clone, Copy)]
struct Line<'a> {
    caller: Caller<'a>,
    stream: &'a Stream,
    version: u16,
}

impl Line<'_> {
    fn say(self, message: Message) -> Result<(), ConnectError> {
        let address = self.caller.address;
        let mut stream = self.stream;
        let said = stream.write_all(&message.encode(self.version)?);
        said.map_err(|error| ConnectError::Handshake {
            address,
            source: HandshakeError::Io(error),
        })
    }

    fn hear(self, deadline: Instant) -> Result<Message, ConnectError> {
        let spoken = Versions::only(self.version);
        self.caller.hear(self.stream, spoken, deadline)
    }
}
