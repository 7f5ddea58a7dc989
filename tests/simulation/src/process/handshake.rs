//! A session with a primary that is being agreed on.

use std::time::Duration;

use disk_server::arbiter::Claimant;
use logging_channel::handshake::Title;

/// How long a handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(2);

/// A session that is being agreed on.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) line: usize,
    pub(super) session: u64,
    pub(super) title: Title,
    pub(super) question: Option<u64>,
    /// The backup that waits for the next epoch.
    pub(super) backup: Option<Claimant>,
}
