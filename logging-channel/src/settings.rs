//! What a user can set about the channel.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::codec::MAX_BODY;
use crate::handshake::Standby;
use crate::memory::ReadBlock;

/// Settings of the channel. Both sides have their own, but for the heartbeat timeout, which the
/// primary's decide for both.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Silence of heartbeats and log alike after which the peer is taken for lost; from 5 ms to an
    /// hour.
    pub heartbeat_timeout: Duration,
    /// How long an output may wait for its acknowledgement, or a guest that is held up for the next step
    /// of its backup, before the backup is taken for lost although heartbeats come. `None`: twice the
    /// heartbeat timeout, and at least [a second](LEAST_OUTPUT_TIMEOUT). The primary's.
    pub output_timeout: Option<Duration>,
    /// How far the backup may be behind before the primary's guest is slowed, beyond the round trip
    /// of the network.
    pub max_lag: Duration,
    /// How long the guest may run from one entry of the log to the next: the replay takes about as long
    /// for that step.
    pub longest_step: Duration,
    /// How long an entry may wait for others to share its batch. What [`flush`] asks for never
    /// waits.
    ///
    /// [`flush`]: crate::sender::Sender::flush
    pub linger: Duration,
    /// A batch of this many bytes goes out at once.
    pub batch_bytes: usize,
    /// Bytes that wait for the network on the primary before its guest is stopped.
    pub send_buffer: usize,
    /// Bytes, as entries in memory, that wait for the replay on the backup before it stops reading
    /// from the network.
    pub receive_buffer: usize,
    /// How many connections carry guest memory to the backup, besides the log's: at most 16. The
    /// primary's.
    pub memory_streams: u8,
    /// How long a peer may take for its part of the handshake.
    pub handshake_timeout: Duration,
    /// The backup is cold: it only keeps the log. The backup's.
    pub keep: Option<Keep>,
}

/// How a cold backup keeps what it gets.
#[derive(Debug, Clone)]
pub struct Keep {
    /// In this directory, which is its own.
    pub directory: PathBuf,
    /// What is acknowledged is on the disk, and not only in memory.
    pub durable: bool,
    /// The state is asked for anew when the replay of the log would take longer than this,
    pub most_replay: Duration,
    /// or the log since the state is larger than so many bytes.
    pub most_log: u64,
    /// What is in the blocks of guest memory that come.
    pub read_block: ReadBlock,
}

/// Heartbeat timeouts that make sense. With less, a host's own scheduling looks like a loss.
pub(crate) const HEARTBEAT_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_secs(3600);

/// Least output timeout that is not asked for: TCP alone may take some hundred milliseconds to send
/// again what was lost.
pub const LEAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_timeout: Duration::from_millis(500),
            output_timeout: None,
            max_lag: Duration::from_millis(50),
            longest_step: Duration::from_millis(50),
            linger: Duration::from_millis(10),
            batch_bytes: 32 * 1024,
            send_buffer: 4 * 1024 * 1024,
            receive_buffer: 32 * 1024 * 1024,
            memory_streams: memory_streams(),
            handshake_timeout: Duration::from_secs(2),
            keep: None,
        }
    }
}

impl Settings {
    /// Time between two heartbeats.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        heartbeat_interval(self.heartbeat_timeout)
    }

    /// How long an output may wait for its acknowledgement.
    #[must_use]
    pub fn output_timeout(&self) -> Duration {
        let unasked = || (self.heartbeat_timeout * 2).max(LEAST_OUTPUT_TIMEOUT);
        self.output_timeout.unwrap_or_else(unasked)
    }

    /// What the backup does with the log.
    pub(crate) fn standby(&self) -> Standby {
        match self.keep {
            Some(_) => Standby::Cold,
            None => Standby::Hot,
        }
    }

    /// A batch must be sent before it cannot take another entry.
    pub(crate) fn batch_limit(&self) -> usize {
        self.batch_bytes.clamp(1, MAX_BODY / 2)
    }
}

/// One for two processors: the guest has one of its own, and one thread fills some 10 Gbit/s.
fn memory_streams() -> u8 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, 4) as u8
}

/// Five heartbeats in a timeout: four of them may be lost in a row.
pub(crate) fn heartbeat_interval(timeout: Duration) -> Duration {
    (timeout / 5).max(Duration::from_millis(1))
}
