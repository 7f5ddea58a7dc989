//! What the answerer says last, when the connection is encrypted: whether the caller may speak, and a secret for
//! datagrams that belong to the connection.
//!
//! ```text
//!   offset  size  field
//!        0     1  0 admitted, 1 refused
//!        1     …  admitted: secret (32 bytes); refused: length u16, at most MOST_WORDS, little-endian, and
//!                 words in UTF-8
//! ```
//!
//! A caller waits for it. Otherwise what it says first could cross with the answerer's hanging up, and the reset
//! that follows would overtake the reason.

use crate::error::ConnectionError;

/// Length of the secret.
pub(crate) const SECRET_LEN: usize = 32;

/// Most bytes of a refusal's words.
const MOST_WORDS: usize = 512;

pub(crate) type Secret = [u8; SECRET_LEN];

/// What admits the caller.
pub(crate) fn admit(secret: &Secret) -> Vec<u8> {
    [&[0], &secret[..]].concat()
}

/// What refuses it, in `words`.
pub(crate) fn refuse(words: &str) -> Vec<u8> {
    let words = &words[..words.floor_char_boundary(MOST_WORDS)];
    let len = words.len() as u16;
    [&[1], &len.to_le_bytes()[..], words.as_bytes()].concat()
}

/// Reads an admission and says how long it was; `None` if it is not whole yet.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Secret, usize)>, ConnectionError> {
    match bytes {
        [] => Ok(None),
        [0, rest @ ..] => Ok(rest.first_chunk().map(|secret| (*secret, 1 + SECRET_LEN))),
        [1, low, high, words @ ..] => {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            if len > MOST_WORDS {
                return Err(unreadable());
            }
            let Some(words) = words.get(..len) else {
                return Ok(None);
            };
            let words: String = String::from_utf8_lossy(words)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            Err(ConnectionError::Refused(words))
        }
        [1, ..] => Ok(None),
        _ => Err(unreadable()),
    }
}

fn unreadable() -> ConnectionError {
    ConnectionError::Tls("it admits this side in a way that cannot be read".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_admission_is_read_when_it_is_whole(secret: Secret, cut in 0..=SECRET_LEN) {
            let bytes = admit(&secret);
            prop_assert_eq!(read(&bytes[..cut]).expect("a part"), None);
            prop_assert_eq!(read(&bytes).expect("all of it"), Some((secret, bytes.len())));
        }

        #[test]
        fn a_refusal_comes_with_its_words(words in "[^\\p{Cc}]{0,600}") {
            let bytes = refuse(&words);
            prop_assert!(bytes.len() <= 3 + MOST_WORDS);
            for cut in 0..bytes.len() {
                prop_assert!(matches!(read(&bytes[..cut]), Ok(None)));
            }
            let Err(ConnectionError::Refused(read)) = read(&bytes) else {
                return Err(TestCaseError::fail("no refusal"));
            };
            prop_assert!(words.starts_with(&read));
        }

        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }
    }
}
