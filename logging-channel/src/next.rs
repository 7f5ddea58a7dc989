//! What the version after [`PROTOCOL_VERSION`] has more, in the build for tests of upgrades: a field in `Ready` and
//! in each heartbeat, which a program that does not know it takes for damage.

use crate::bytes::{FieldError, Fields};
use crate::codec::PROTOCOL_VERSION;

const FIELD: [u8; 4] = *b"next";

/// How many bytes more that are.
pub(crate) fn len(version: u16) -> usize {
    if version > PROTOCOL_VERSION {
        FIELD.len()
    } else {
        0
    }
}

/// Appends the field, if `version` has it.
pub(crate) fn put(version: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&FIELD[..len(version)]);
}

/// Takes it off `fields`.
pub(crate) fn take(version: u16, fields: &mut Fields<'_>) -> Result<(), FieldError> {
    let len = len(version);
    if fields.bytes(len)? == &FIELD[..len] {
        Ok(())
    } else {
        Err(FieldError::Short)
    }
}
