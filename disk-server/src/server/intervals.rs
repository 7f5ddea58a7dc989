//! Time, for those who count it in intervals.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};

use confinement::Calls;

use crate::views::PING_INTERVAL;

/// Calls something once in [`PING_INTERVAL`], until it is dropped: on a thread of its own, so that one that does
/// not run, as the rest of this process, counts no interval.
#[derive(Debug)]
pub(super) struct Intervals {
    /// Dropped to end it.
    until: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Intervals {
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start(count: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (until, ended) = channel::<()>();
        let run = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PING_INTERVAL) {
                confinement::catch_up();
                count();
            }
        };
        let named = thread::Builder::new().name("intervals".to_owned());
        let thread = confinement::spawn(named, &[Calls::Files, Calls::Storage], run)?;
        Ok(Self {
            until: Some(until),
            thread: Some(thread),
        })
    }
}

impl Drop for Intervals {
    fn drop(&mut self) {
        self.until = None;
        // What it uses is closed behind it.
        self.thread.take().map(JoinHandle::join);
    }
}
