//! Why there is no result.

use std::io;
use std::net::SocketAddr;

use logging_channel::handshake::{HandshakeError, Refusal, RefusalCode};
use logging_channel::session::{AcceptError, BindError, ConnectError};
use transport::ConnectionError;

use super::stage::Stage;

/// Why a network was not tested.
#[derive(Debug, thiserror::Error)]
pub enum NetworkTestError {
    /// The port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Nobody can be waited for.
    #[error("this host cannot wait for network tests")]
    Accept(#[source] AcceptError),
    /// Nobody answered in time.
    #[error(
        "no network test answered at {address} within {seconds} s: start `ftvm network-test --listen {address}` on the other \
         machine, let TCP and UDP of that port through its firewall, or wait until it is through with another test"
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
        /// How long it was waited for.
        seconds: u64,
        /// What happened last.
        #[source]
        source: io::Error,
    },
    /// The two sides do not trust each other, or speak of different things.
    #[error("cannot speak with the other side at {address}")]
    Connection {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// A guest's primary listens there.
    #[error(
        "at {address} the primary of a guest listens, and no network test: a test takes all that a network carries, so \
         guests are to be elsewhere meanwhile (`ftvm host drain`)"
    )]
    Guest {
        /// Where.
        address: SocketAddr,
    },
    /// The other side does not take this one.
    #[error("the other side at {address} refuses: {refusal}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// What answers is no network test of this version.
    #[error(
        "at {address} something answers that is no network test of this version of ftvm: run the same ftvm on both"
    )]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: HandshakeError,
    },
    /// The session did not begin for another reason.
    #[error("cannot begin a network test with {address}")]
    Begin {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// The other side went away.
    #[error(
        "the network test broke off {}: {why}; a guest's hosts would have lost each other there. See whether the \
         other side still runs, and what it says",
        at(*stage)
    )]
    BrokenOff {
        /// During this; `None` before the first.
        stage: Option<Stage>,
        /// Why, as the session says.
        why: String,
    },
    /// The other side says what makes no sense.
    #[error(
        "the other side says what no network test of this version does ({0}): run the same ftvm on both"
    )]
    Nonsense(String),
    /// This host has no room for it.
    #[error("this host cannot test its network")]
    Io(#[from] io::Error),
}

fn at(stage: Option<Stage>) -> String {
    match stage {
        Some(stage) => format!("half way ({})", stage.words()),
        None => "before it began".to_owned(),
    }
}

impl NetworkTestError {
    /// What kept a session from beginning, for which `seconds` were waited.
    pub(super) fn of_session(address: SocketAddr, seconds: u64, error: ConnectError) -> Self {
        match error {
            ConnectError::NoAnswer { source, .. } => Self::NoAnswer {
                address,
                seconds,
                source,
            },
            ConnectError::Connection { source, .. } => Self::Connection { address, source },
            ConnectError::Refused { refusal, .. } if refusal.code == RefusalCode::OtherVm => {
                Self::Guest { address }
            }
            ConnectError::Refused { refusal, .. } => Self::Refused { address, refusal },
            ConnectError::Handshake { source, .. } => Self::Handshake { address, source },
            source => Self::Begin { address, source },
        }
    }
}
