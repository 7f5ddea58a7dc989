//! The view service: which hosts there are, and which of them is to be a guest's next backup.
//!
//! A *view* of a virtual machine is its epoch, its primary and its backup: the arbiter's
//! [`Record`](crate::arbiter::Record), which only its members move on, by test-and-set. What is here
//! decides nothing about that. It knows *hosts*, by their pings, and where a primary wants a backup it
//! proposes an idle one for the next view:
//!
//! ```text
//!     primary                     service                     idle host
//!       | -- ping: wants a backup -> | <------------- ping: idle -- |
//!       |                            | -- proposal: view n, address > |
//!       | <--------------------- connects, and joins -------------- |
//!       | -- compare-and-set n -> n + 1, with this backup            |
//! ```
//!
//! It is advice. A service that is away, was started again, is slow, or is wrong, costs new backups and
//! nothing else; so all that it knows is in memory.
//!
//! [`Views`] is a machine without clock, thread and socket.

mod backoff;
mod guests;
mod host;
mod known;
mod machine;
mod proposal;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use backoff::Backoff;
pub use guests::{Candidates, Guests};
pub use host::{
    Capabilities, Cause, Condition, Declined, Ended, MAX_ENDED, MAX_EXPORTS, MAX_PROCESSES, Paging,
    Phase, Ping, Role, Tended, Unfit, Wanted, WentLive,
};
pub(crate) use known::reached_at;
pub use known::{FORGOTTEN_PINGS, MISSED_PINGS, PING_INTERVAL};
pub use machine::{HostRecord, MAX_HOSTS, TooManyHosts, Views};
pub use proposal::{JOIN_INTERVALS, Proposal};
pub use text::{MAX_TEXT, Text, TextError};
