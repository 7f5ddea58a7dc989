//! How a guest is, in words.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::definition::LagBounds;
use super::order::OrderNumber;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::{Text, Unfit};

/// The most hosts of which a [`Reason`] tells why they do not fit.
pub const MAX_UNFIT: usize = 8;

/// How a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// The guest.
    pub vm: VmName,
    /// Whether it is defined. One that is not is run by hand, and takes no orders.
    pub defined: bool,
    /// Protected, or why not.
    pub state: State,
    /// The number of its view; 0 if it never ran.
    pub view: u64,
    /// Where its copies are.
    pub placement: Placement,
    /// How far the backup's execution is behind, in milliseconds.
    pub lag_ms: Option<u64>,
    /// When that is told in which colour.
    pub lag: LagBounds,
    /// What it sends to the backup.
    pub log_bytes_per_second: Option<u64>,
    /// The last time that another host went live with it, as far as the journal goes back.
    pub last_failover: Option<Failover>,
    /// The last time that a copy of it ended with an error, as far as the journal goes back.
    #[serde(default)]
    pub last_failure: Option<Failure>,
    /// What an operator asked for, and is not done yet: its number, and what, in words.
    pub pending: Option<(OrderNumber, Text)>,
}

/// Where a guest's copies are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The copy that runs.
    pub primary: Option<Member>,
    /// The copy that follows, or joins.
    pub backup: Option<Member>,
}

/// One copy of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// On which host.
    pub host: HostName,
    /// Which run of ftvm.
    pub claimant: Claimant,
    /// Its pings come.
    pub live: bool,
    /// Where that host's daemon gives the guest's console; `None` if it has none.
    pub console: Option<SocketAddr>,
}

/// A host went live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// When, by the service's clock.
    pub unix_ms: u64,
    /// The view that it won.
    pub view: u64,
    /// For how long the guest stood still, in milliseconds.
    pub outage_ms: u64,
}

/// A copy of a guest ended with an error, or crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When, by the service's clock.
    pub unix_ms: u64,
    /// On which host.
    pub host: HostName,
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub status: Option<i32>,
    /// What it said last, or which signal.
    pub reason: Text,
}

/// In which state a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does not run, and is not to.
    Stopped {
        /// Why, if it was not an operator who stopped it.
        reason: Option<Text>,
    },
    /// It is to run, and does not.
    NotRunning(Reason),
    /// It runs, and survives the loss of a host.
    Protected,
    /// It runs, and does not.
    NotProtected(Reason),
}

/// Why a guest does not run, or is not protected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It begins to run, or a backup begins to join.
    Starting {},
    /// No host fits, and why each does not.
    NoIdleHost {
        /// The hosts, at most [`MAX_UNFIT`].
        unfit: Vec<(HostName, Unfit)>,
    },
    /// A backup joins.
    Joining {
        /// How much of the guest's memory was gone through in this round.
        percent: u8,
    },
    /// The backup differed, and is sent the whole state.
    Diverged {},
    /// The backup is so far behind that a failover would take as long.
    Lagging {
        /// Milliseconds.
        lag_ms: u64,
    },
    /// A host that fits does not reach the primary.
    LoggingNetworkDown {
        /// The host.
        host: HostName,
        /// What it said.
        error: Text,
    },
    /// An operator wants it so.
    Suspended {
        /// Who.
        by: Text,
    },
    /// The service does not answer: this is what a host knows.
    ServiceUnreachable {},
    /// Hosts that may run it do not ping: it cannot be started elsewhere before that is known.
    Unknown {
        /// The hosts: one or two.
        hosts: Vec<HostName>,
    },
    /// It is being ended.
    Stopping {},
}

/// How a lag is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagColour {
    /// As it should be.
    Green,
    /// More than usual.
    Yellow,
    /// A failover would take that much longer.
    Red,
}

impl LagBounds {
    /// How a lag of so many milliseconds is told.
    #[must_use]
    pub fn colour(self, lag_ms: u64) -> LagColour {
        match lag_ms {
            lag if lag > self.red_ms => LagColour::Red,
            lag if lag > self.yellow_ms => LagColour::Yellow,
            _ => LagColour::Green,
        }
    }
}

impl State {
    /// Whether it is of the same kind, whatever it tells besides.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        use std::mem::discriminant;
        match (self, other) {
            (Self::NotRunning(one), Self::NotRunning(two))
            | (Self::NotProtected(one), Self::NotProtected(two)) => {
                discriminant(one) == discriminant(two)
            }
            (one, two) => discriminant(one) == discriminant(two),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { reason: None } => f.write_str("Stopped"),
            Self::Stopped {
                reason: Some(reason),
            } => write!(f, "Stopped: {reason}"),
            Self::NotRunning(reason) => write!(f, "Not running: {reason}"),
            Self::Protected => f.write_str("Protected"),
            Self::NotProtected(reason) => write!(f, "Not protected: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting {} => f.write_str("starting"),
            Self::NoIdleHost { unfit } => {
                f.write_str("no idle host")?;
                for (at, (host, unfit)) in unfit.iter().enumerate() {
                    let before = if at == 0 { ": " } else { "; " };
                    write!(f, "{before}{host} {unfit}")?;
                }
                Ok(())
            }
            Self::Joining { percent } => write!(f, "joining {percent} %"),
            Self::Diverged {} => f.write_str("diverged (repairing)"),
            Self::Lagging { lag_ms } => write!(f, "lagging by {lag_ms} ms"),
            Self::LoggingNetworkDown { host, error } => {
                write!(
                    f,
                    "logging network down: {host} does not reach the primary: {error}"
                )
            }
            Self::Suspended { by } => write!(f, "suspended by {by}"),
            Self::ServiceUnreachable {} => f.write_str("service unreachable"),
            Self::Unknown { hosts } => {
                let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
                let (verb, all) = match hosts.len() {
                    1 => ("does", "that is"),
                    _ => ("do", "all of them are"),
                };
                write!(
                    f,
                    "{} may run it and {verb} not answer: if {all} certainly gone, start it with --force",
                    names.join(" and ")
                )
            }
            Self::Stopping {} => f.write_str("stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_has_its_colour_from_its_bounds_on() {
        let usual = LagBounds::default();
        let own = LagBounds {
            yellow_ms: 5,
            red_ms: 6,
        };
        for (bounds, lag_ms, colour) in [
            (usual, 100, LagColour::Green),
            (usual, 101, LagColour::Yellow),
            (usual, 1000, LagColour::Yellow),
            (usual, 1001, LagColour::Red),
            (own, 5, LagColour::Green),
            (own, 6, LagColour::Yellow),
            (own, 7, LagColour::Red),
        ] {
            assert_eq!(bounds.colour(lag_ms), colour, "{lag_ms} of {bounds:?}");
        }
    }
}
