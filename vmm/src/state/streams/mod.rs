//! Guest memory on its way beside the log, in a transfer of the whole state: threads of this host read and
//! send it while the guest runs ([`MemorySender`]), and threads of the other host put it where it belongs
//! ([`MemoryTaker`]).
//!
//! Each page belongs to one stream, so that what is sent of it later arrives later.

mod block;
mod kept;
mod limit;
mod own_time;
mod sending;
mod taking;

pub use kept::KeptBlocks;
pub use limit::Limit;
pub use sending::{MemorySender, Progress, Round, SendBlocks, Waited};
pub use taking::{MemoryTaker, read_block};

#[cfg(test)]
mod tests;
