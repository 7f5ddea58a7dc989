//! Bounds of a search.

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Hosts, of which the first one runs the guest.
    pub hosts: usize,
    /// Requests of the client.
    pub requests: usize,
    /// How often a backup is started.
    pub backups: u8,
    /// How often a host is killed.
    pub kills: u8,
    /// How often the connection between two hosts is cut.
    pub cuts: u8,
}

impl Bounds {
    /// A failover, a join and a second failover of two hosts, with a cut link.
    pub const TWO_HOSTS: Self = Self {
        hosts: 2,
        requests: 2,
        backups: 2,
        kills: 2,
        cuts: 1,
    };

    /// The same of three.
    pub const THREE_HOSTS: Self = Self {
        hosts: 3,
        ..Self::TWO_HOSTS
    };
}
