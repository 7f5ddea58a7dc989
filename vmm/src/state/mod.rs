//! The guest's state as a whole: transferred where execution cannot be followed, and digested to
//! see that both sides have the same.
//!
//! Both sides keep a [`Baseline`]: a hash of each page as it was at the last *synchronisation
//! point*, a place where both have the same state. Digests and state transfers are such points.
//! From one to the next
//!
//! - the primary sends each page that was written ([`Capture::commit_delta`]), and the backup, which
//!   stands where the primary's last exit was, takes them over ([`Incoming`]). For pages that are sent
//!   again and again, both keep copies of the last ones (`page_cache`), and only what differs is sent;
//! - for a digest, both hash the pages that they wrote, and compare those that changed: part by part of
//!   memory, each at a place of its own.
//!
//! ```text
//!   synchronisation point n                    n+1
//!   primary   ──┬── runs ──── exit E ── runs ──┬── stopped here: all that was written since n
//!   backup    ──┴── replays ─ exit E           └── these pages on top
//! ```
//!
//! Each of them takes as many stops of the guest as it needs. What was sent or digested belongs to
//! the baseline of both sides from then on, page by page.
//!
//! A transfer of the *whole* state ([`Capture::begin_whole`]) builds on zeros in place of a guest. Its memory
//! goes beside the log, while the guest runs ([`MemorySender`], [`MemoryTaker`]); what is not memory, devices
//! included, comes at the end. It takes the place of the log, or is a *renewal*
//! ([`Capture::begin_renewal`]): then deltas and digests go on, with the baseline, and whoever follows them
//! passes over its end.

mod aside;
mod baseline;
mod capture;
mod digest;
mod error;
mod hashes;
mod incoming;
mod page_cache;
mod parts;
mod patch;
mod seal;
mod streams;

pub use baseline::{Baseline, NoRoom};
pub use capture::{Capture, Committed, Stop};
pub use digest::digest;
pub(crate) use digest::{digest_rest, part_digests};
pub use error::StateError;
pub use incoming::Incoming;
pub use streams::{
    KeptBlocks, Limit, MemorySender, MemoryTaker, Progress, Round, SendBlocks, Waited, read_block,
};

/// So many pages are looked at between two looks at the clock: also pages that have not changed, of
/// which nothing is sent, take time.
const AT_A_TIME: u32 = 64;
