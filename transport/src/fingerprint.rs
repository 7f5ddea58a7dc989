//! Short names of public keys.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

/// The SHA-256 of a public key as a certificate has it (SubjectPublicKeyInfo, RFC 5280). Written as ssh does:
/// `SHA256:` and Base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Fingerprint([u8; 32]);

/// Why a string is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint: give what `ftvm key show` says on that machine, SHA256:…")]
pub struct FingerprintError(String);

const PREFIX: &str = "SHA256:";

impl Fingerprint {
    /// Of the key with this SubjectPublicKeyInfo, in DER.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        let digest = digest(&SHA256, public_key);
        Self(digest.as_ref().try_into().expect("it has 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let decoded = text.strip_prefix(PREFIX).and_then(|rest| {
            let bytes = STANDARD_NO_PAD.decode(rest).ok()?;
            bytes.try_into().ok()
        });
        decoded
            .map(Self)
            .ok_or_else(|| FingerprintError(text.to_owned()))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(key: Vec<u8>) {
            let fingerprint = Fingerprint::of(&key);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }

        #[test]
        fn anything_else_is_none(text: String) {
            prop_assert!(text.parse::<Fingerprint>().is_err());
        }
    }

    #[test]
    fn it_has_the_form_that_ssh_shows() {
        // echo -n | openssl dgst -sha256 -binary | base64
        let empty = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        assert_eq!(Fingerprint::of(b"").to_string(), empty);
        for wrong in [&empty[1..], &empty[..20], &format!("{empty}="), "signed"] {
            let error = wrong.parse::<Fingerprint>().expect_err(wrong);
            assert!(error.to_string().contains("ftvm key show"));
        }
    }
}
