//! Why there is no connection.

use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::fingerprint::Fingerprint;
use crate::peer::{Peer, Role};

/// Why a connection was not opened. Each is about the other side, whose address the caller of this crate knows.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// It was not opened in time.
    #[error("it did not get through its part of the handshake in time")]
    TimedOut,
    /// The wait was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It hung up.
    #[error("it hung up before the connection was open")]
    HungUp,
    /// What it says is not a preface.
    #[error("it does not speak as ftvm does: another program, or another version of ftvm")]
    NotFtvm,
    /// It has another version of the preface.
    #[error(
        "it has version {theirs} of ftvm's connections, and this side has {ours}: run the same ftvm on both"
    )]
    OtherVersion {
        /// Its version.
        theirs: u16,
        /// This side's.
        ours: u16,
    },
    /// It is something else.
    #[error("it is about {theirs}, and this side about {ours}: check the address and the port")]
    OtherService {
        /// What it is about.
        theirs: &'static str,
        /// What this side is about.
        ours: &'static str,
    },
    /// It is plain, and this side is not.
    #[error(
        "it is plain, without keys, and this side asks for keys: give it a key (`ftvm key generate`), or say `plain` here too"
    )]
    PeerIsPlain,
    /// It asks for keys, and this side is plain.
    #[error(
        "it asks for keys, and this side is plain, without keys: give this side a key (`ftvm key generate`), or say `plain` there too"
    )]
    PeerIsSecure,
    /// This side does not know its key.
    #[error("its key is not listed here: {0}; if it is right, add that to trust.toml")]
    UnknownKey(Fingerprint),
    /// It does not know the key of this side.
    #[error(
        "this side's key is not listed there: {0}; if it is to be, add that to trust.toml there"
    )]
    NotListed(Fingerprint),
    /// It has a role that has no business here.
    #[error("it is the {peer}, and only a {} may be there", in_words(wanted))]
    WrongRole {
        /// Who it is.
        peer: Peer,
        /// What it had to be.
        wanted: &'static [Role],
    },
    /// It says that this side has no business there.
    #[error("it refuses: {0}")]
    Refused(String),
    /// Something damaged or forged what was said, or it is no TLS.
    #[error("the handshake failed: {0}")]
    Tls(String),
}

fn in_words(roles: &[Role]) -> String {
    let names: Vec<String> = roles.iter().map(Role::to_string).collect();
    names.join(" or a ")
}

/// A key that is not listed, on its way through TLS's own errors.
#[derive(Debug, thiserror::Error)]
#[error("the key {0} is not listed")]
pub(crate) struct Unlisted(pub(crate) Fingerprint);

impl ConnectionError {
    /// Of what TLS found; `own` is this side's key.
    pub(crate) fn of_tls(error: &rustls::Error, own: Fingerprint) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<Unlisted>() {
                    Some(Unlisted(fingerprint)) => Self::UnknownKey(*fingerprint),
                    None => Self::Tls(error.to_string()),
                }
            }
            // What rustls sends for a certificate that a verifier of ours does not take.
            rustls::Error::AlertReceived(AlertDescription::CertificateUnknown) => {
                Self::NotListed(own)
            }
            rustls::Error::NoCertificatesPresented => {
                Self::Tls("it has shown no certificate".into())
            }
            _ => Self::Tls(error.to_string()),
        }
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        let kind = match error {
            ConnectionError::Io(error) => return error,
            ConnectionError::TimedOut => io::ErrorKind::TimedOut,
            ConnectionError::HungUp => io::ErrorKind::UnexpectedEof,
            ConnectionError::Cancelled => io::ErrorKind::Other,
            ConnectionError::NotFtvm
            | ConnectionError::OtherVersion { .. }
            | ConnectionError::Tls(_) => io::ErrorKind::InvalidData,
            ConnectionError::OtherService { .. }
            | ConnectionError::PeerIsPlain
            | ConnectionError::PeerIsSecure
            | ConnectionError::UnknownKey(_)
            | ConnectionError::NotListed(_)
            | ConnectionError::WrongRole { .. }
            | ConnectionError::Refused(_) => io::ErrorKind::PermissionDenied,
        };
        io::Error::new(kind, error)
    }
}
