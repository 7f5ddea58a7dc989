//! Who is at the other end.

use std::fmt;
use std::str::FromStr;

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

    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Host => "host",
            Role::DiskServer => "disk-server",
            Role::Operator => "operator",
            Role::Monitor => "monitor",
        }
    }
}

impl FromStr for Role {
    type Err = RoleError;

    /// Reads [`Role::word`].
    fn from_str(text: &str) -> Result<Self, RoleError> {
        let role = Role::ALL.into_iter().find(|role| role.word() == text);
        role.ok_or_else(|| RoleError(text.to_owned()))
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: host, disk-server, operator and monitor are")]
pub struct RoleError(String);

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

impl Peer {
    /// As a certificate says it (a URI).
    pub(crate) fn uri(&self) -> String {
        format!("ftvm:{}/{}", self.role.word(), self.name)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_word() {
        for role in Role::ALL {
            assert_eq!(role.word().parse(), Ok(role));
        }
        let error = "hosts".parse::<Role>().expect_err("none").to_string();
        assert!(error.contains("disk-server"), "{error}");
    }
}
