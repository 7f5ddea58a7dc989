//! What a logging network carries before any guest is there (`ftvm network-test`).
//!
//! The side that listens has the primary's end of a session, and the side that connects the backup's: the same
//! handshake, the same threads, the same heartbeats as a guest's. What is logged is made up, and a word of the test's
//! is a line of JSON typed at the console of a guest that there is not.
//!
//! ```text
//!   connects                                listens
//!     | <====== a session as a guest's ======> |
//!     | <-- begins: a stage ------------------ |
//!     | <== the stage's entries, or bytes ==== |   bare ones over a memory stream's socket
//!     | <-- ended: what this side found ------ |
//!     |     … each stage …                     |
//!     | <-- over: heartbeats that came ------- |
//!     | <-- goodbye -------------------------- |
//! ```
//!
//! A connection of a test's is told from a guest's by the name of the virtual machine, which none can have.

mod bare;
mod connecting;
mod error;
mod listening;
mod loads;
mod pressed;
mod report;
mod session;
mod stage;

pub use connecting::test;
pub use error::NetworkTestError;
pub use listening::serve;
pub use report::Report;
pub use session::identity;
pub use stage::Stage;

/// Whether the side that connects understands this of the other one.
#[cfg(any(test, fuzzing))]
pub(crate) fn understands(word: &[u8]) -> Result<(), NetworkTestError> {
    connecting::word(word).map(drop)
}
