//! Little-endian fields and varints: the alphabet of every format in this crate.
//!
//! [`Fields`] never reads past its slice and never allocates, so hostile bytes cost an error and
//! nothing else.

/// Why a field could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The bytes end within the field.
    #[error("the bytes end within a field")]
    Short,
    /// A variable-length integer does not fit 64 bits.
    #[error("a variable-length integer does not fit 64 bits")]
    Varint,
}

/// Takes fields off the front of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], FieldError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(FieldError::Short)?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(FieldError::Short)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FieldError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FieldError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FieldError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FieldError> {
        self.array().map(u64::from_le_bytes)
    }

    /// LEB128: seven bits a byte, least significant first, at most ten bytes.
    pub(crate) fn varint(&mut self) -> Result<u64, FieldError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(FieldError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FieldError::Varint)
    }

    /// The value whose wrapping difference to `base` was written by [`put_delta`].
    pub(crate) fn delta(&mut self, base: u64) -> Result<u64, FieldError> {
        let zigzag = self.varint()?;
        let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        Ok(base.wrapping_add(difference))
    }
}

/// Appends `value` as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the wrapping difference of `value` to `base`, zigzag-coded so that a small step in
/// either direction is short.
pub(crate) fn put_delta(out: &mut Vec<u8>, base: u64, value: u64) {
    let difference = value.wrapping_sub(base) as i64;
    put_varint(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_survives(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert!(out.len() <= 10);
            let mut fields = Fields::new(&out);
            prop_assert_eq!(fields.varint(), Ok(value));
            prop_assert!(fields.is_empty());
        }

        #[test]
        fn a_delta_survives(base: u64, value: u64) {
            let mut out = Vec::new();
            put_delta(&mut out, base, value);
            prop_assert_eq!(Fields::new(&out).delta(base), Ok(value));
        }

        #[test]
        fn any_bytes_read_as_a_varint_end_in_a_value_or_an_error(bytes: Vec<u8>) {
            let _ = Fields::new(&bytes).varint();
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_refused() {
        let mut bytes = [0xff; 10];
        bytes[9] = 0x02;
        assert_eq!(Fields::new(&bytes).varint(), Err(FieldError::Varint));
        assert_eq!(Fields::new(&[0x80; 11]).varint(), Err(FieldError::Varint));
        assert_eq!(Fields::new(&[0x80; 9]).varint(), Err(FieldError::Short));
    }

    #[test]
    fn small_steps_either_way_take_one_byte() {
        for (base, value) in [(100, 101), (100, 99), (0, u64::MAX)] {
            let mut out = Vec::new();
            put_delta(&mut out, base, value);
            assert_eq!(out.len(), 1, "{base} to {value}");
        }
    }
}
