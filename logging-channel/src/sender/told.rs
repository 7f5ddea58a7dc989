//! What a session tells of itself.

use std::time::Duration;

use crate::codec::KindCounts;
use crate::entry::Lsn;
use crate::heartbeat::Arrivals;
use crate::loss::LossReason;
use crate::times::TimeFigures;

/// What [`Sender::wait_committed`](super::Sender::wait_committed) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The backup has the entry in its memory.
    Committed,
    /// Not within the time given.
    TimedOut,
    /// It never will: the session is over.
    PeerLost,
}

/// How [`Sender::finish`](super::Sender::finish) ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The backup has every entry and knows that there are no more.
    Orderly,
    /// The backup did not acknowledge the last entry in time. It was cut off without a goodbye.
    TimedOut,
    /// The backup was lost before it had every entry.
    PeerLost(LossReason),
}

/// What a primary's end did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderStats {
    /// Entries appended.
    pub entries: u64,
    /// Those of them that were appended after the backup was lost, and went nowhere.
    pub dropped: u64,
    /// Bytes of the batches given to the network.
    pub bytes: u64,
    /// Batches given to the network.
    pub batches: u64,
    /// Entries and bytes by kind of entry.
    pub kinds: KindCounts,
    /// Bytes that wait for the network now.
    pub buffered: usize,
    /// How often an append waited for room.
    pub stalls: u64,
    /// How long appends waited for room.
    pub stalled: Duration,
    /// How often the guest was held up so that the backup could catch up.
    pub throttles: u64,
    /// How long.
    pub throttled: Duration,
    /// Round trip between the hosts, as heartbeats measure it; `None` before the first.
    pub round_trip: Option<Duration>,
    /// How the backup's heartbeats arrive.
    pub arrivals: Arrivals,
    /// Age of the oldest entry that the backup has not executed.
    pub lag: Duration,
    /// The backup's lag, over its reports.
    pub lags: TimeFigures,
    /// Last entry appended.
    pub appended: Lsn,
    /// Last entry in the backup's memory.
    pub acked: Lsn,
    /// Last entry that the backup executed.
    pub executed: Lsn,
    /// Last output released.
    pub released: Lsn,
}
