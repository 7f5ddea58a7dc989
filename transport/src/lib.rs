//! ftvm's connections: authenticated on both sides, and encrypted.
//!
//! - [`Key`]: what a machine or a person proves itself with.
//! - [`Endpoint`]: a key, and one file that says whose keys are believed and who that is; opens connections in either direction. Or it is *plain*, which has to be asked
//!   for: nothing is authenticated or encrypted then.
//! - [`Stream`]: an open connection, with a [`Peer`] at its other end.
//! - [`configuration`]: how that file, and others like it, are read.
//!
//! ```text
//!   caller                                     answerer
//!     | --- preface -------------------------> |   same mode, same service?
//!     | --- TLS 1.3 ClientHello -------------> |
//!     | <-- preface --------------------------- |
//!     | <== TLS 1.3 ==========================> |   each knows the other's key
//!     | <== admission ========================= |   the caller's role may speak here
//!     | <== the service's own protocol =======> |
//! ```
//!
//! A plain connection has the two prefaces and then the service's protocol. NBD has a way of its own into TLS,
//! and so neither preface nor admission ([`Opening::Bare`]).
//!
//! What is said in clear only serves readable errors. The service is in TLS's own handshake too (ALPN), and the
//! mode is what each side was told, so nobody on the way gains by changing it.
//!
//! The page for users is `docs/keys.md`.

mod address;
mod admission;
mod authority;
mod certificate;
pub mod configuration;
mod credential;
mod datagram;
mod endpoint;
mod error;
mod file;
mod fingerprint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
mod key;
mod key_set;
mod mode;
mod outbox;
mod peer;
mod person;
mod preface;
mod socket;
mod stream;
mod tls;
mod trust;
mod verifier;
mod versions;

pub use address::{AddressError, ip_address, socket_address};
pub use authority::{SignError, sign};
pub use datagram::{DatagramKey, MAC_LEN};
pub use endpoint::{Endpoint, EndpointError};
pub use error::ConnectionError;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use handshake::{Handshake, Opening, Patience};
pub use key::{KEY_FILE, Key, KeyError};
pub use key_set::{KeySet, key_set};
pub use mode::Mode;
pub use peer::{Peer, Role, RoleError};
pub use person::{OWN_KEY_HINT, key_of_person};
pub use preface::Service;
pub use socket::wait_readable;
pub use stream::Stream;
pub use trust::{TRUST_FILE, TrustError, check_trust, parse_trust};
pub use versions::Versions;
