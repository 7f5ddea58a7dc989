//! Random numbers that nobody draws twice.

use std::io;

/// A number from the kernel's source of randomness.
///
/// # Errors
/// The system's.
pub(crate) fn nonce() -> io::Result<u128> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    Ok(u128::from_le_bytes(nonce))
}
