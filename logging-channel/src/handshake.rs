//! The handshake: how a session starts, and how it is refused.
//!
//! ```text
//!   backup                                             primary
//!     | -------- TCP connect ---------------------------> |  listening
//!     | -------- Versions {oldest, newest} -------------> |  has one in common?
//!     | <------- Versions {oldest, newest} -------------- |  the same to both
//!     | -------- Hello {identity, host report, run,       |
//!     |                 UDP port, standby} -------------> |  compares
//!     | <------- Refuse {code, message} ----------------- |  … and closes, or:
//!     | <------- Welcome {run, session, epoch, holder,    |
//!     |                   heartbeat, UDP port,            |
//!     |                   memory streams, host report} -- |
//!     |  does that one hold the epoch?                    |
//!     | -------- TCP connect, Memory {session, number},   |
//!     |          for each memory stream ----------------> |
//!     | -------- Ready {session, claimant} -------------> |  takes it into the next epoch
//!     | <------- Begin {session, epoch} ----------------- |
//!     |  the session has begun                            |  the session has begun
//!     | <======= batches, Released; blocks of memory ==== |
//!     | ======== Acknowledge ===========================> |
//!     | <~~~~~~~ heartbeats over UDP, both ways ~~~~~~~~> |
//!     | <------- Goodbye -------------------------------- |  the log ended in order
//! ```
//!
//! The versions go first because everything else is as the version has it that both sides find from them: the
//! greatest that both speak. A Hello in the oldest of the caller's could not be read by a newer peer that has a later
//! one in common with it; and to be refused and call again with less could be brought about by others.
//!
//! `Ready` is there because a backup may have gone away while its Hello waited in the listener's
//! backlog: without it, a primary would start with a backup that it loses at once.
//!
//! `Begin` is there because `Ready` may be lost on its way: a backup that went by its own Ready would
//! find the primary silent, and take the guest over, while the primary waits for another backup. A
//! session has begun for a backup only when the primary can have no other.
//!
//! Every handshake message, and the header of a log file, is an *envelope*:
//!
//! ```text
//!   offset  size  field
//!        0     8  magic "ftvmlink" (handshake) or "ftvm-log" (file)
//!        8     2  protocol version
//!       10     2  kind: 1 Hello, 2 Welcome, 3 Refuse, 4 Ready, 5 file header,
//!                6 Begin, 7 Memory, 8 Versions
//!       12     4  length of the body, at most 4096
//!       16     4  CRC-32 of the body
//!       20     4  CRC-32 of bytes 0 to 19
//!       24     …  body
//! ```
//!
//! **Version policy.** The envelope and the bodies of `Versions` and `Refuse` never change, in any version: peers
//! of different versions can always find what they have in common, and read why they do not fit. All other bodies
//! belong to the version that the envelope names.

use std::io::{self, Read};
use std::time::Duration;

use crate::bytes::{FieldError, Fields};
use crate::host::{HostReport, HostReportError, MAX_REPORT};
use crate::identity::{Identity, IdentityError, MAX_IDENTITY, decode_claimant, encode_claimant};
pub use crate::identity::{MAX_HOLDER, Title};
pub use crate::refusal::{MAX_REFUSAL_MESSAGE, Refusal, RefusalCode};
use transport::Versions;

/// Length of an envelope's header.
pub const ENVELOPE_LEN: usize = 24;

/// Longest body of an envelope.
pub const MAX_ENVELOPE_BODY: usize = 4096;

// The header of a file has the longest body: an identity, a seed, and a report.
const _: () = assert!(MAX_IDENTITY + 32 + MAX_REPORT <= MAX_ENVELOPE_BODY);

pub(crate) const LINK_MAGIC: [u8; 8] = *b"ftvmlink";

/// Kind of an envelope.
pub(crate) mod kind {
    pub(crate) const HELLO: u16 = 1;
    pub(crate) const WELCOME: u16 = 2;
    pub(crate) const REFUSE: u16 = 3;
    pub(crate) const READY: u16 = 4;
    pub(crate) const FILE: u16 = 5;
    pub(crate) const BEGIN: u16 = 6;
    pub(crate) const MEMORY: u16 = 7;
    pub(crate) const VERSIONS: u16 = 8;
}

/// The header of an envelope, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) version: u16,
    pub(crate) kind: u16,
    pub(crate) body_len: usize,
    body_crc: u32,
}

/// Why bytes are not a handshake message, or not a log file's header, which has the same envelope: the
/// words fit both.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not an ftvm peer.
    #[error("this is not an ftvm peer: it starts with {found:02x?}")]
    Magic {
        /// What is there in place of the magic.
        found: [u8; 8],
    },
    /// The message was damaged.
    #[error("a checksum is wrong: it was damaged")]
    Checksum,
    /// A body that no version sends.
    #[error("it announces {0} bytes: at most {MAX_ENVELOPE_BODY} are allowed")]
    TooLong(u32),
    /// A message of another version than is spoken here.
    #[error(
        "the peer speaks protocol version {theirs}, this side {ours}: install the same version of ftvm on both hosts, or the one before it on one of them"
    )]
    OtherVersion {
        /// What the peer speaks, or the version of its message.
        theirs: Versions,
        /// What is spoken on this side.
        ours: Versions,
    },
    /// A message that does not belong here.
    #[error("an unexpected message, of kind {found}")]
    Kind {
        /// The kind found.
        found: u16,
    },
    /// The body cannot be read.
    #[error("it is malformed")]
    Body(#[source] IdentityError),
    /// The report of the peer's host cannot be read.
    #[error("a malformed report of the peer's host")]
    Host(#[from] HostReportError),
    /// The answer is not to what was asked.
    #[error("the peer answers another run's handshake")]
    OtherRun,
    /// The primary asks for a heartbeat timeout that makes no sense.
    #[error("the primary asks for a heartbeat timeout of {} ms: set one from 5 ms to an hour", timeout.as_millis())]
    Timeout {
        /// The timeout.
        timeout: Duration,
    },
    /// The peer closed the connection or reading failed.
    #[error("the connection ended during the handshake")]
    Io(#[from] io::Error),
}

impl From<IdentityError> for HandshakeError {
    fn from(error: IdentityError) -> Self {
        HandshakeError::Body(error)
    }
}

impl From<FieldError> for HandshakeError {
    fn from(error: FieldError) -> Self {
        HandshakeError::Body(IdentityError::Field(error))
    }
}

impl Envelope {
    pub(crate) fn seal(magic: [u8; 8], version: u16, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENVELOPE_LEN + body.len());
        out.extend_from_slice(&magic);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Reads and checks a header, of any version.
    pub(crate) fn open(magic: [u8; 8], bytes: &[u8; ENVELOPE_LEN]) -> Result<Self, HandshakeError> {
        let mut fields = Fields::new(bytes);
        let found = fields.array()?;
        if found != magic {
            return Err(HandshakeError::Magic { found });
        }
        let (version, kind, body_len) = (fields.u16()?, fields.u16()?, fields.u32()?);
        let body_crc = fields.u32()?;
        if fields.u32()? != crc32fast::hash(&bytes[..20]) {
            return Err(HandshakeError::Checksum);
        }
        if body_len as usize > MAX_ENVELOPE_BODY {
            return Err(HandshakeError::TooLong(body_len));
        }
        Ok(Self {
            version,
            kind,
            body_len: body_len as usize,
            body_crc,
        })
    }

    pub(crate) fn check_body(&self, body: &[u8]) -> Result<(), HandshakeError> {
        if crc32fast::hash(body) != self.body_crc {
            return Err(HandshakeError::Checksum);
        }
        Ok(())
    }
}

/// What a backup does with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// It executes it.
    #[default]
    Hot,
    /// It keeps it, and executes it when the primary is lost. What it keeps it says to be executed.
    Cold,
}

/// The backup's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The VM that it is a backup for.
    pub identity: Identity,
    /// What its host can do.
    pub host: HostReport,
    /// A random number that the answer repeats.
    pub run: u64,
    /// The UDP port at which the backup expects heartbeats.
    pub udp_port: u16,
    /// What it does with the log.
    pub standby: Standby,
}

/// The primary's answer to a backup that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The run of the Hello that this answers.
    pub run: u64,
    /// Random number of the session; heartbeats carry it.
    pub session: u64,
    /// By which right the primary runs the guest.
    pub title: Title,
    /// Silence after which either side takes the other for lost.
    pub heartbeat_timeout: Duration,
    /// The UDP port at which the primary expects heartbeats.
    pub udp_port: u16,
    /// How many memory streams the backup is to open.
    pub streams: u8,
    /// What the primary's host can do.
    pub host: HostReport,
}

/// A handshake message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message of either side: what it speaks.
    Versions(Versions),
    /// The backup's first message.
    Hello(Hello),
    /// The primary's answer to a backup that fits.
    Welcome(Welcome),
    /// The primary's answer to one that does not.
    Refuse(Refusal),
    /// The first message of a memory stream, which the backup opens.
    Memory {
        /// The session of the Welcome that asks for it.
        session: u64,
        /// Which of them, from 0.
        number: u8,
    },
    /// The backup's answer to Welcome: it still waits for this session to begin.
    Ready {
        /// The session of the Welcome that this answers.
        session: u64,
        /// Who the backup is to the arbiter.
        claimant: String,
    },
    /// The primary's answer to Ready: this session has begun, and it will have no other.
    Begin {
        /// The session that begins.
        session: u64,
        /// The primary's epoch with this backup.
        epoch: u64,
    },
}

impl Message {
    fn kind(&self) -> u16 {
        match self {
            Message::Versions(_) => kind::VERSIONS,
            Message::Hello(_) => kind::HELLO,
            Message::Welcome(_) => kind::WELCOME,
            Message::Refuse(_) => kind::REFUSE,
            Message::Ready { .. } => kind::READY,
            Message::Begin { .. } => kind::BEGIN,
            Message::Memory { .. } => kind::MEMORY,
        }
    }

    /// The error that it is where another message belongs.
    pub(crate) fn unexpected(&self) -> HandshakeError {
        HandshakeError::Kind { found: self.kind() }
    }

    /// The message as `version` has it. Fails only for an identity or a holder that is not valid.
    pub fn encode(&self, version: u16) -> Result<Vec<u8>, IdentityError> {
        let mut body = Vec::new();
        match self {
            Message::Versions(Versions { oldest, newest }) => {
                body.extend_from_slice(&oldest.to_le_bytes());
                body.extend_from_slice(&newest.to_le_bytes());
            }
            Message::Hello(hello) => {
                body.extend_from_slice(&hello.run.to_le_bytes());
                body.extend_from_slice(&hello.udp_port.to_le_bytes());
                body.push((hello.standby == Standby::Cold).into());
                hello.identity.encode(&mut body)?;
                hello.host.encode(&mut body);
            }
            Message::Welcome(welcome) => {
                body.extend_from_slice(&welcome.run.to_le_bytes());
                body.extend_from_slice(&welcome.session.to_le_bytes());
                welcome.title.encode(&mut body)?;
                let ms = u32::try_from(welcome.heartbeat_timeout.as_millis()).unwrap_or(u32::MAX);
                body.extend_from_slice(&ms.to_le_bytes());
                body.extend_from_slice(&welcome.udp_port.to_le_bytes());
                body.push(welcome.streams);
                welcome.host.encode(&mut body);
            }
            Message::Refuse(refusal) => refusal.encode(&mut body),
            Message::Ready { session, claimant } => {
                body.extend_from_slice(&session.to_le_bytes());
                encode_claimant(claimant, &mut body)?;
                #[cfg(feature = "next-protocol")]
                crate::next::put(version, &mut body);
            }
            Message::Begin { session, epoch } => {
                body.extend_from_slice(&session.to_le_bytes());
                body.extend_from_slice(&epoch.to_le_bytes());
            }
            Message::Memory { session, number } => {
                body.extend_from_slice(&session.to_le_bytes());
                body.push(*number);
            }
        }
        Ok(Envelope::seal(LINK_MAGIC, version, self.kind(), &body))
    }

    /// How many bytes a message takes whose first bytes are `start`, at least. A message is whole
    /// when it has as many.
    pub(crate) fn needed(start: &[u8]) -> Result<usize, HandshakeError> {
        match start.first_chunk() {
            None => {
                // Say so at once if it cannot become a message: an HTTP request may be short.
                let len = start.len().min(LINK_MAGIC.len());
                if start[..len] != LINK_MAGIC[..len] {
                    let mut found = [0; 8];
                    found[..len].copy_from_slice(&start[..len]);
                    return Err(HandshakeError::Magic { found });
                }
                Ok(ENVELOPE_LEN)
            }
            Some(header) => Ok(ENVELOPE_LEN + Envelope::open(LINK_MAGIC, header)?.body_len),
        }
    }

    /// Reads one whole message, where `spoken` are the versions in which it may be.
    pub fn decode(bytes: &[u8], spoken: Versions) -> Result<Self, HandshakeError> {
        let mut fields = Fields::new(bytes);
        let envelope = Envelope::open(LINK_MAGIC, &fields.array()?)?;
        let body = fields.bytes(envelope.body_len)?;
        if !fields.is_empty() {
            return Err(IdentityError::Trailing(fields.remaining()).into());
        }
        envelope.check_body(body)?;
        let is_of_all_versions = matches!(envelope.kind, kind::REFUSE | kind::VERSIONS);
        if !is_of_all_versions && !spoken.contains(envelope.version) {
            return Err(HandshakeError::OtherVersion {
                theirs: Versions::only(envelope.version),
                ours: spoken,
            });
        }
        let mut fields = Fields::new(body);
        let message = match envelope.kind {
            kind::VERSIONS => Message::Versions(Versions {
                oldest: fields.u16()?,
                newest: fields.u16()?,
            }),
            kind::HELLO => Message::Hello(Hello {
                run: fields.u64()?,
                udp_port: fields.u16()?,
                standby: match fields.u8()? {
                    0 => Standby::Hot,
                    _ => Standby::Cold,
                },
                identity: Identity::decode(&mut fields)?,
                host: HostReport::decode(&mut fields)?,
            }),
            kind::WELCOME => Message::Welcome(Welcome {
                run: fields.u64()?,
                session: fields.u64()?,
                title: Title::decode(&mut fields)?,
                heartbeat_timeout: Duration::from_millis(u64::from(fields.u32()?)),
                udp_port: fields.u16()?,
                streams: fields.u8()?,
                host: HostReport::decode(&mut fields)?,
            }),
            kind::REFUSE => Message::Refuse(Refusal::decode(&mut fields)?),
            kind::READY => {
                let (session, claimant) = (fields.u64()?, decode_claimant(&mut fields)?);
                #[cfg(feature = "next-protocol")]
                crate::next::take(envelope.version, &mut fields)?;
                Message::Ready { session, claimant }
            }
            kind::BEGIN => Message::Begin {
                session: fields.u64()?,
                epoch: fields.u64()?,
            },
            kind::MEMORY => Message::Memory {
                session: fields.u64()?,
                number: fields.u8()?,
            },
            found => return Err(HandshakeError::Kind { found }),
        };
        if !fields.is_empty() {
            return Err(IdentityError::Trailing(fields.remaining()).into());
        }
        Ok(message)
    }

    /// Reads one message from a stream, taking no byte beyond it.
    pub fn read_from(stream: &mut impl Read, spoken: Versions) -> Result<Self, HandshakeError> {
        let mut bytes = vec![0; ENVELOPE_LEN];
        stream.read_exact(&mut bytes)?;
        bytes.resize(Self::needed(&bytes)?, 0);
        stream.read_exact(&mut bytes[ENVELOPE_LEN..])?;
        Self::decode(&bytes, spoken)
    }
}
