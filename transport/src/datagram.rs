//! Datagrams that belong to a connection.

use std::fmt;

use ring::hmac;

/// Length of what authenticates a datagram.
pub const MAC_LEN: usize = 32;

/// Authenticates the datagrams of a connection, in both directions (HMAC-SHA-256). Its secret was made by the
/// answerer and told through the connection; both die with it.
///
/// It proves that a peer made a datagram for this connection. That it was not heard before, and which of the two
/// made it, is for what is in it to say.
#[derive(Clone)]
pub struct DatagramKey(hmac::Key);

impl DatagramKey {
    /// Of a session's secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// What goes behind `bytes`.
    #[must_use]
    pub fn mac(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        let tag = hmac::sign(&self.0, bytes);
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Whether `mac` is what goes behind `bytes`.
    #[must_use]
    pub fn is_genuine(&self, bytes: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.0, bytes, mac).is_ok()
    }
}

impl fmt::Debug for DatagramKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatagramKey")
    }
}
