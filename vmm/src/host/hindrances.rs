//! What a host's configuration names, and is not there.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use transport::{EndpointError, Key, check_trust};

use super::config::Config;
use super::daemon::DaemonError;
use super::folders::Folders;
use super::sockets::Addresses;
use crate::io::Bridge;

/// What keeps this host's daemon from starting.
#[derive(Debug)]
pub struct Hindrance {
    /// The key in the configuration that it is about.
    pub key: &'static str,
    /// The error with which it would end.
    pub error: DaemonError,
}

/// All that keeps a daemon with this configuration from starting on this machine, as far as its configuration says
/// it. A port that is taken is none: the daemon may be running.
#[must_use]
pub fn hindrances(config: &Config) -> Vec<Hindrance> {
    let mut found = Vec::new();
    let mut note = |key, outcome: Result<(), DaemonError>| {
        found.extend(outcome.err().map(|error| Hindrance { key, error }));
    };
    if let Some(keys) = &config.keys {
        let key = Key::read(&keys.key).map_err(EndpointError::from);
        note("key", key.map(drop).map_err(DaemonError::from));
        let trust = check_trust(&keys.trust).map_err(EndpointError::from);
        note("trust", trust.map_err(DaemonError::from));
    }
    let bridge = Bridge::find(&config.bridge);
    note("bridge", bridge.map(drop).map_err(DaemonError::from));
    let socket = Folders::at(&config.run, &config.state).socket();
    note("run", socket.map(drop).map_err(DaemonError::from));
    // It is told once that an address is another host's.
    let mut elsewhere = BTreeSet::new();
    for listening in Addresses::of(config).all() {
        let Err(error) = listening.listen() else {
            continue;
        };
        let is_told = match error.source.kind() {
            ErrorKind::AddrInUse => true,
            ErrorKind::AddrNotAvailable => !elsewhere.insert(listening.address.ip()),
            _ => false,
        };
        if !is_told {
            note(listening.key, Err(error.into()));
        }
    }
    found
}
