//! What something takes a thread, were it alone on its processor.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// What Linux counts of the thread that reads it (Documentation/scheduler/sched-stats.rst).
const COUNTS: &str = "/proc/thread-self/schedstat";

/// A thread's clock, which stands still while the thread waits for a processor. What it measures is the
/// thread's own work, and waiting for others: for the network.
///
/// A guest that takes all that its host has makes everything slow that goes on beside it. That says nothing of
/// the network, and nothing of the time that the same thing takes while the guest stands still.
///
/// On a kernel that does not count (neither CONFIG_SCHEDSTATS nor `delayacct`) it is a clock like others.
#[derive(Debug)]
pub(super) struct OwnTime {
    since: Instant,
    counts: Option<File>,
}

impl OwnTime {
    /// That of the thread which calls this, and which alone may use it.
    pub(super) fn of_this_thread() -> Self {
        let counts = File::open(COUNTS)
            .inspect_err(|error| log::debug!("nobody knows what the guest leaves: {error}"));
        Self {
            since: Instant::now(),
            counts: counts.ok(),
        }
    }

    /// The time on it.
    pub(super) fn now(&self) -> Duration {
        let waited = self.counts.as_ref().and_then(|counts| waited(counts).ok());
        self.since
            .elapsed()
            .saturating_sub(waited.unwrap_or_default())
    }
}

/// For how long a thread has waited for a processor until now.
fn waited(counts: &File) -> io::Result<Duration> {
    // Three numbers of at most twenty digits.
    let mut line = [0; 64];
    let len = counts.read_at(&mut line, 0)?;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let line = str::from_utf8(&line[..len]).map_err(|_| malformed())?;
    let nanos = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::time::{ClockId, clock_gettime};
    use nix::unistd::Pid;

    use super::*;

    /// What this thread has had of processors.
    fn processor() -> Duration {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        time.expect("there is one").into()
    }

    #[test]
    fn waiting_for_a_processor_takes_no_time() {
        let this = Pid::from_raw(0);
        let mut one = CpuSet::new();
        let all = sched_getaffinity(this).expect("it has some");
        let first = (0..CpuSet::count()).find(|at| all.is_set(*at) == Ok(true));
        one.set(first.expect("it runs on one")).expect("it is one");
        let (over, busy) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                sched_setaffinity(this, &one).expect("it may");
                while !over.load(Ordering::Relaxed) {
                    busy.store(true, Ordering::Relaxed);
                }
            });
            let waits = scope.spawn(|| {
                sched_setaffinity(this, &one).expect("it may");
                while !busy.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                let own = OwnTime::of_this_thread();
                let before = (Instant::now(), processor(), own.now());
                let waited = |before: (Instant, Duration, Duration)| {
                    before.0.elapsed().saturating_sub(processor() - before.1)
                };
                // The other one takes its share.
                while waited(before) < Duration::from_millis(100) {}
                let others = own.now() - before.2;
                (
                    others.saturating_sub(processor() - before.1),
                    waited(before),
                )
            });
            let (on_the_clock, waited) = waits.join().expect("no panic");
            over.store(true, Ordering::Relaxed);
            if is_counted() {
                assert!(on_the_clock < waited / 2, "{on_the_clock:?} of {waited:?}");
            }
        });
    }

    /// Whether this kernel counts.
    fn is_counted() -> bool {
        // Of a thread that ran.
        let counts = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        let mut numbers = counts.split(' ');
        numbers.next().is_some_and(|ran| ran != "0")
    }

    #[test]
    fn waiting_for_others_does() {
        let own = OwnTime::of_this_thread();
        let before = own.now();
        thread::sleep(Duration::from_millis(50));
        // All of it but what the thread waited for a processor afterwards, which is not told apart here.
        assert!(own.now() > before);
    }
}
