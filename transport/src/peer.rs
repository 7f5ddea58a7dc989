//! Who is at the other end.

use std::fmt;

/// What somebody is. Rights go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A machine that runs guests.
    Host,
    /// A disk server.
    DiskServer,
    /// Somebody, or a program, who may give commands.
    Operator,
    /// Somebody, or a program, who may only look.
    Monitor,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Host, Role::DiskServer, Role::Operator, Role::Monitor];

    /// Its table in the file of those who are trusted.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Role::Host => "hosts",
            Role::DiskServer => "disk_servers",
            Role::Operator => "operators",
            Role::Monitor => "monitors",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Host => "host",
            Role::DiskServer => "disk server",
            Role::Operator => "operator",
            Role::Monitor => "monitor",
        })
    }
}

/// Who is at the other end of a connection, as the key proves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Under this name it is listed.
    pub name: String,
    /// What it is.
    pub role: Role,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}
