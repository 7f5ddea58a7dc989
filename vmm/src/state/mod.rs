//! The guest's state as a whole: transferred where execution cannot be followed, and digested to
//! see that both sides have the same.
//!
//! Both sides keep a [`Baseline`]: a copy of guest memory as it was at the last *synchronisation
//! point*, a place where both have the same state. Digests and state transfers are such points.
//! From one to the next
//!
//! - the primary sends what differs from the baseline ([`Capture::commit_delta`]), and the backup goes
//!   back to the baseline in every page that it wrote itself, and puts the difference on top
//!   ([`Incoming`]). So the result does not depend on how far the backup's own execution went;
//! - for a digest, both compare the pages that they wrote with the baseline, and digest those
//!   that differ: part by part of memory, each at a place of its own.
//!
//! ```text
//!   synchronisation point n                    n+1
//!   primary   ──┬── runs ──── exit E ── runs ──┬── stopped here: delta to n
//!   backup    ──┴── replays ─ exit E           └── pages back to n, plus delta
//! ```
//!
//! A transfer of the *whole* state ([`Capture::begin_whole`]) is the same with a baseline of
//! zeros, and the devices at the end.
//!
//! Each of them takes as many stops of the guest as it needs. What was sent or digested belongs to
//! the baseline of both sides from then on, page by page.

mod baseline;
mod capture;
mod digest;
mod incoming;
mod memory_copy;
mod parts;
mod patch;
mod seal;

pub use baseline::{Baseline, NoRoom};
pub use capture::Capture;
pub use digest::digest;
pub(crate) use digest::{digest_rest, part_digests};
pub use incoming::{Incoming, StateError};

/// So many pages are looked at between two looks at the clock: also pages that have not changed, of
/// which nothing is sent, take time.
const AT_A_TIME: u32 = 64;
