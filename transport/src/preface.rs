//! The first bytes in either direction, in clear, so that peers which do not fit can tell each other why.
//!
//! ```text
//!   offset  size  field
//!        0     8  magic "ftvmconn"
//!        8     2  version of the preface and of what follows up to the service's protocol, little-endian
//!       10     1  mode: 1 plain, 2 secure
//!       11     1  service: 1 log, 2 disk server, 3 consoles
//! ```
//!
//! The layout never changes. The caller sends its own at once, the answerer after it has the caller's. Nothing
//! is negotiated: each side has its mode and service from its user, and hangs up where the other has another.

use crate::error::ConnectionError;
use crate::mode::Mode;

/// Length of a preface.
pub(crate) const PREFACE_LEN: usize = 12;

const MAGIC: [u8; 8] = *b"ftvmconn";

/// Version of this crate's part of the protocol.
const VERSION: u16 = 1;

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The logging channel: a primary's log and memory streams.
    Log,
    /// The disk server's arbiter, views and fleet.
    DiskServer,
    /// Consoles of a host's guests.
    Console,
}

impl Service {
    const ALL: [Service; 3] = [Service::Log, Service::DiskServer, Service::Console];

    fn number(self) -> u8 {
        match self {
            Service::Log => 1,
            Service::DiskServer => 2,
            Service::Console => 3,
        }
    }

    /// As TLS's handshake has it (ALPN, RFC 7301).
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Service::Log => b"ftvm-log",
            Service::DiskServer => b"ftvm-disk-server",
            Service::Console => b"ftvm-console",
        }
    }

    /// What listens there, in words.
    pub(crate) fn port(self) -> &'static str {
        match self {
            Service::Log => "a logging port",
            Service::DiskServer => "a disk server",
            Service::Console => "a host's port for consoles",
        }
    }
}

/// What one side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preface {
    pub(crate) mode: Mode,
    pub(crate) service: Service,
}

impl Preface {
    pub(crate) fn encode(self) -> [u8; PREFACE_LEN] {
        let mut out = [0; PREFACE_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = match self.mode {
            Mode::Plain => 1,
            Mode::Secure => 2,
        };
        out[11] = self.service.number();
        out
    }

    /// Whether what came so far can become a preface.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        bytes.iter().zip(&MAGIC).all(|(a, b)| a == b)
    }

    /// Compares the other side's with this one's.
    pub(crate) fn compare(self, theirs: &[u8; PREFACE_LEN]) -> Result<(), ConnectionError> {
        if !Self::begins(theirs) {
            return Err(ConnectionError::NotFtvm);
        }
        let version = u16::from_le_bytes([theirs[8], theirs[9]]);
        if version != VERSION {
            return Err(ConnectionError::OtherVersion {
                theirs: version,
                ours: VERSION,
            });
        }
        let service = Service::ALL.iter().find(|s| s.number() == theirs[11]);
        match service {
            Some(&service) if service == self.service => {}
            other => {
                return Err(ConnectionError::OtherService {
                    theirs: other.map_or("something unknown", |service| service.port()),
                    ours: self.service.port(),
                });
            }
        }
        match (self.mode, theirs[10]) {
            (Mode::Plain, 1) | (Mode::Secure, 2) => Ok(()),
            (Mode::Secure, 1) => Err(ConnectionError::PeerIsPlain),
            (Mode::Plain, 2) => Err(ConnectionError::PeerIsSecure),
            _ => Err(ConnectionError::NotFtvm),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours() -> Preface {
        Preface {
            mode: Mode::Secure,
            service: Service::Log,
        }
    }

    #[test]
    fn what_differs_is_named() {
        let differs = |mode, service| ours().compare(&Preface { mode, service }.encode());
        assert!(differs(Mode::Secure, Service::Log).is_ok());
        assert!(matches!(
            differs(Mode::Plain, Service::Log),
            Err(ConnectionError::PeerIsPlain)
        ));
        let error = differs(Mode::Secure, Service::DiskServer).expect_err("another service");
        assert!(error.to_string().contains("a disk server"), "{error}");
        let mut newer = ours().encode();
        newer[8] += 1;
        assert!(matches!(
            ours().compare(&newer),
            Err(ConnectionError::OtherVersion { theirs: 2, .. })
        ));
    }

    proptest! {
        #[test]
        fn only_one_preface_fits(bytes: [u8; PREFACE_LEN]) {
            prop_assert_eq!(ours().compare(&bytes).is_ok(), bytes == ours().encode());
        }

        #[test]
        fn every_flipped_bit_is_found(bit in 0..PREFACE_LEN * 8) {
            let mut bytes = ours().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ours().compare(&bytes).is_err());
        }
    }
}
