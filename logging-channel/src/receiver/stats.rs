//! What the backup's end did so far.

use crate::entry::Lsn;
use crate::heartbeat::Arrivals;

/// What a backup's end did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Entries received.
    pub entries: u64,
    /// Bytes of the batches received.
    pub bytes: u64,
    /// Batches received.
    pub batches: u64,
    /// Bytes, as entries in memory, that wait for the replay.
    pub queued_bytes: usize,
    /// How often reading stopped because the queue was full.
    pub stalls: u64,
    /// Last entry received.
    pub received: Lsn,
    /// Last entry acknowledged as received.
    pub acked: Lsn,
    /// Last entry executed, as [`Receiver::executed`](super::Receiver::executed) said.
    pub executed: Lsn,
    /// Last output that the primary released, as far as this side knows.
    pub released: Lsn,
    /// How the primary's heartbeats arrive.
    pub arrivals: Arrivals,
}
