//! How much of a processor a thread has used.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How much of a processor a thread has used, the guest that it runs included; for all threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadClock(ClockId);

impl ThreadClock {
    /// That of the thread that calls this.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: the thread exists, and the number is written where there is room for it.
        match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
            0 => Ok(Self(ClockId::from_raw(clock))),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// What it has used by now. A thread that is gone has used nothing.
    pub(super) fn read(self) -> Duration {
        clock_gettime(self.0).map_or(Duration::ZERO, Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn another_thread_sees_what_this_one_uses() {
        let clock = ThreadClock::of_this_thread().expect("a clock");
        let read = move || thread::spawn(move || clock.read()).join().expect("read");
        let before = read();
        let since = Instant::now();
        while clock.read() < before + Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(since.elapsed() >= Duration::from_millis(4));
        assert!(read() >= before + Duration::from_millis(5));
    }
}
