//! What a host's configuration names, and is not there.

use std::io;
use std::net::SocketAddr;

use transport::{EndpointError, Key, check_trust};

use super::config::Config;
use super::daemon::{DaemonError, listen};
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
    let logging = SocketAddr::new(config.logging_address, 0);
    let logs = is_here(logging, "logging_address");
    // It is told once that an address is another host's.
    let is_told = logs.is_err() && config.console.ip() == config.logging_address;
    note("logging_address", logs);
    if !is_told {
        note("console", is_here(config.console, "console"));
    }
    found
}

fn is_here(address: SocketAddr, key: &'static str) -> Result<(), DaemonError> {
    match listen(address, key) {
        Err(DaemonError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            Ok(())
        }
        listened => listened.map(drop),
    }
}
