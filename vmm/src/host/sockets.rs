//! Where a daemon listens: one list, by which it starts, and by which its configuration is checked.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::config::Config;

/// An address on which a daemon listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listening {
    /// What it is called in the configuration.
    pub(super) key: &'static str,
    /// The address.
    pub(super) address: SocketAddr,
}

/// All on which a daemon listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    /// For guests' logs, at ports that their processes choose: it is only tried out.
    pub(super) logging: Listening,
    /// For the consoles of guests.
    pub(super) consoles: Listening,
    /// For those who watch the host.
    pub(super) watchers: Option<Listening>,
}

/// An address is not this host's, or is taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: see that {key} in the host's configuration is an address of this host, and that nothing else listens there"
)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What it is called in the configuration.
    pub key: &'static str,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl Addresses {
    /// Those of the daemon with this configuration.
    pub(super) fn of(config: &Config) -> Self {
        let listening = |key, address| Listening { key, address };
        Self {
            logging: listening(
                "logging_address",
                SocketAddr::new(config.logging_address, 0),
            ),
            consoles: listening("console", config.console),
            watchers: (config.metrics).map(|address| listening("metrics", address)),
        }
    }

    /// In the order in which a daemon takes them.
    pub(super) fn all(self) -> impl Iterator<Item = Listening> {
        let Self {
            logging,
            consoles,
            watchers,
        } = self;
        [logging, consoles].into_iter().chain(watchers)
    }
}

impl Listening {
    /// Listens there.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(super) fn listen(self) -> Result<TcpListener, ListenError> {
        let Self { key, address } = self;
        TcpListener::bind(address).map_err(|source| ListenError {
            address,
            key,
            source,
        })
    }
}
