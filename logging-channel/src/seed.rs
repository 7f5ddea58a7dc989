//! What a guest's random numbers begin with.

use std::fmt;

/// Random bytes of a guest's host, for the guest's kernel to begin with. They are an input, and so the
/// same on both hosts and in a replay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; Self::LEN]);

impl Seed {
    /// How many bytes: as many as Linux asks of its boot loader.
    pub const LEN: usize = 32;

    /// A seed that nothing else has.
    ///
    /// # Panics
    ///
    /// When the system has no random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; Self::LEN];
        getrandom::fill(&mut bytes).expect("the system has random numbers");
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl From<[u8; Self::LEN]> for Seed {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

/// Nobody else is told what it is.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}
