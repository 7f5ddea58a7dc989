//! Reading from a peer that may take its time, but not all of ours.

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::socket::wait_readable;

/// How often a wait looks whether it was cancelled.
pub(super) const CANCEL_TICK: Duration = Duration::from_millis(50);

/// A stream that gives up at a deadline, however slowly the peer trickles, or when cancelled.
pub(super) struct Patient<'a> {
    pub(super) stream: &'a TcpStream,
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
            if wait_readable(&[self.stream.as_fd()], Some(wait))?[0] {
                return self.stream.read(buffer);
            }
        }
    }
}
