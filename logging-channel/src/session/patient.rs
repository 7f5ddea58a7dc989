//! Reading from a peer that may take its time, but not all of ours.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use transport::Stream;

/// How often a wait looks whether it was cancelled.
pub(super) const CANCEL_TICK: Duration = Duration::from_millis(50);

/// A stream that gives up at a deadline, however slowly the peer trickles, or when cancelled.
pub(super) struct Patient<'a> {
    pub(super) stream: &'a Stream,
    pub(super) deadline: Instant,
    pub(super) cancel: &'a AtomicBool,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let wait = left.min(CANCEL_TICK);
            self.stream.wait_readable(&[], Some(wait))?;
            match self.stream.read_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}
