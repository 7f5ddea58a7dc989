//! Where a disk server is.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Where a server is: `host:port`. A name is looked up at every connect, and its last answer counts while there is none;
/// an address needs no name server at the very moment when hosts fail, and is to be preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress(String);

impl ServerAddress {
    /// As `host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string that is no [`ServerAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT, such as 192.0.2.1:7420 or [2001:db8::1]:7420")]
pub struct AddressError(String);

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
            let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"[]/:".contains(c);
            !host.is_empty()
                && (host.chars().all(plain) || text.parse::<SocketAddrV6>().is_ok())
                // Alone, `parse` would take a sign.
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if valid {
            Ok(ServerAddress(text.to_owned()))
        } else {
            Err(AddressError(text.to_owned()))
        }
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        ServerAddress(address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_host_and_a_port() {
        for good in ["127.0.0.1:1", "host.example:7420", "[::1]:7420"] {
            assert_eq!(good.parse::<ServerAddress>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "host",
            "host:",
            ":1",
            "::1:7420",
            "host:99999",
            "host:0",
            "h:1:2",
            "host:+7420",
            "host: 7420",
            "ho st:7420",
            "[host]:7420",
            "[::1:7420",
        ] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad:?}");
        }
    }
}
