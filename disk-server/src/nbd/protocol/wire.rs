//! Fields in slices of bytes.

use super::{MAX_STRING, ProtocolError};

/// Takes big-endian fields off the front of a message.
pub(super) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// `what` names the message in errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { what, rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (field, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(ProtocolError::Short { what: self.what })?;
        self.rest = rest;
        Ok(*field)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string of `length` bytes.
    pub(super) fn string(&mut self, length: usize) -> Result<String, ProtocolError> {
        let what = self.what;
        let (text, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(ProtocolError::Short { what })?;
        if length > MAX_STRING {
            return Err(ProtocolError::TooLong { what });
        }
        self.rest = rest;
        match std::str::from_utf8(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ProtocolError::Utf8 { what }),
        }
    }

    /// A string behind its length in 32 bits.
    pub(super) fn counted_string(&mut self) -> Result<String, ProtocolError> {
        let length = self.u32()?;
        self.string(length as usize)
    }

    /// All that is left, as a string.
    pub(super) fn last_string(&mut self) -> Result<String, ProtocolError> {
        self.string(self.rest.len())
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), ProtocolError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(ProtocolError::Extra {
                what: self.what,
                extra,
            }),
        }
    }
}

/// Appends a string behind its length in 32 bits. Longer ones than [`MAX_STRING`] are cut, at a
/// character's end: the other side would take them for an attack.
pub(super) fn put_counted_string(bytes: &mut Vec<u8>, text: &str) {
    let text = cut(text);
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// At most [`MAX_STRING`] bytes of a text.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_STRING)]
}

/// Numbers on the wire that have names: an enum with a variant for each, and `Other` for the rest.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$variant_doc:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A number that has no name here.
            Other($repr),
        }

        impl From<$repr> for $name {
            fn from(code: $repr) -> $name {
                match code {
                    $(code if code == $value => $name::$variant,)*
                    other => $name::Other(other),
                }
            }
        }

        impl From<$name> for $repr {
            fn from(code: $name) -> $repr {
                match code {
                    $($name::$variant => $value,)*
                    $name::Other(other) => other,
                }
            }
        }
    };
}

pub(super) use codes;
