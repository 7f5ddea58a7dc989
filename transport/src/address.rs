//! Addresses as people give them.

use std::net::{IpAddr, SocketAddr};

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not {form}: give the address itself, as only the disk server may be called by a name"
)]
pub struct AddressError {
    text: String,
    form: &'static str,
}

/// An address with a port. No name: whoever waits for a host that has failed must not wait for a name server.
///
/// # Errors
/// It is none.
pub fn socket_address(text: &str) -> Result<SocketAddr, AddressError> {
    let form = "IP:PORT, such as 192.0.2.1:7421 or [2001:db8::1]:7421";
    text.parse().map_err(|_| AddressError {
        text: text.to_owned(),
        form,
    })
}

/// The same without a port.
///
/// # Errors
/// It is none.
pub fn ip_address(text: &str) -> Result<IpAddr, AddressError> {
    let form = "an IP address, such as 192.0.2.1 or 2001:db8::1";
    text.parse().map_err(|_| AddressError {
        text: text.to_owned(),
        form,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_address() {
        assert!(socket_address("192.0.2.1:7421").is_ok() && ip_address("2001:db8::1").is_ok());
        for name in ["a", "a.example:7421", "localhost:7421", "192.0.2.1"] {
            let words = socket_address(name).expect_err(name).to_string();
            assert!(
                words.starts_with(&format!("{name:?} is not IP:PORT")),
                "{words}"
            );
        }
        let words = ip_address("a.example").expect_err("a name").to_string();
        assert!(
            words.contains("192.0.2.1") && words.contains("by a name"),
            "{words}"
        );
    }
}
