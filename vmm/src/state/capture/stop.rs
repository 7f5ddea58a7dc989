//! What came of one stop of the guest.

/// How far a delta came in one stop of the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stop {
    /// All of memory was sent, as it is while the guest stands still.
    pub is_all: bool,
    /// A round began: all pages of the last one were sent, and so many were written meanwhile.
    pub round: Option<u64>,
}
