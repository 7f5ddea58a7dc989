//! A bound on what a transfer takes of the network.

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// At most so many bytes a second, over all streams together.
#[derive(Debug)]
pub struct Limit {
    bytes_per_second: u64,
    /// When what was let through so far has been paid for.
    free: Mutex<Instant>,
}

impl Limit {
    /// At most `bytes_per_second`, at least one.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` more may be sent.
    pub fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let turn = {
            let mut free = self.free.lock();
            let turn = (*free).max(now);
            *free = turn + self.takes(bytes);
            turn
        };
        thread::sleep(turn - now);
    }

    fn takes(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64)
    }
}
