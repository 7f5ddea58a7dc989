//! Random numbers that nobody draws twice.

use std::fs::File;
use std::io::{self, Read as _};

/// A number from the kernel's random number device.
///
/// # Errors
/// The device cannot be read.
pub(crate) fn nonce() -> io::Result<u128> {
    let mut nonce = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(u128::from_le_bytes(nonce))
}
