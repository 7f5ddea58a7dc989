//! The parts of the world, by what they are at its beginning.

use std::fmt;

/// A part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// The host that runs the guest.
    Primary,
    /// The one that protects it.
    Backup,
    /// The one without a role.
    Idle,
    /// The disk server, with the view service.
    Service,
    /// The client.
    Client,
}

impl Place {
    /// The hosts, by their numbers.
    pub(crate) const HOSTS: [Self; 3] = [Self::Primary, Self::Backup, Self::Idle];

    /// Its number, if it is a host.
    pub(crate) fn host(self) -> Option<usize> {
        Self::HOSTS.iter().position(|host| *host == self)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
            Self::Idle => "idle host",
            Self::Service => "disk server",
            Self::Client => "client",
        })
    }
}
