//! Stops a guest that makes no exits.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::pthread::{Pthread, pthread_self};

use crate::{kick, threads};

/// How long after a kick that had no effect the next one comes, as a part of the interval. A kick
/// is lost if it comes between the guest's thread deciding to enter the guest and entering it.
const AGAIN: u32 = 8;

/// [`Shared::entered`] while the guest is not being run.
const OUT: u64 = u64::MAX;

/// [`Shared::looks_at`] while the watchdog waits for the guest to be entered.
const AT_ENTRY: u64 = u64::MAX;

/// Interrupts the thread that it was made on when the guest has run for too long without an exit.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// It stays on its thread.
    not_send: PhantomData<*const ()>,
}

struct Shared {
    base: Instant,
    /// When the guest was entered, in nanoseconds since `base`; [`OUT`] while it is not run.
    entered: AtomicU64,
    /// How long it may run, in nanoseconds.
    interval: AtomicU64,
    /// When it may be stopped again, in nanoseconds since `base`.
    not_before: AtomicU64,
    /// When the watchdog looks next by itself, in nanoseconds since `base`; [`AT_ENTRY`] if it does
    /// not.
    looks_at: AtomicU64,
    over: AtomicBool,
}

/// A thread that signals can be sent to.
#[derive(Clone, Copy)]
struct Target {
    thread: Pthread,
    signal: libc::c_int,
}

// SAFETY: a pthread_t names a thread of the process and may be used by any of them.
unsafe impl Send for Target {}

impl Target {
    fn kick(self) {
        // SAFETY: the watchdog is dropped, and its thread joined, on the target thread itself
        // (it is not Send), so the target is alive.
        unsafe { libc::pthread_kill(self.thread, self.signal) };
    }
}

impl Watchdog {
    /// Watches over the calling thread, which runs the guest.
    ///
    /// # Errors
    /// The signal cannot be handled.
    pub fn start(interval: Duration) -> std::io::Result<Self> {
        let target = Target {
            thread: pthread_self(),
            signal: kick::handled_signal()?,
        };
        let shared = Arc::new(Shared {
            base: Instant::now(),
            entered: AtomicU64::new(OUT),
            interval: AtomicU64::new(interval.as_nanos() as u64),
            not_before: AtomicU64::new(0),
            looks_at: AtomicU64::new(AT_ENTRY),
            over: AtomicBool::new(false),
        });
        let own = shared.clone();
        let thread = threads::insist("watchdog", &[], move || own.watch(target));
        Ok(Self {
            shared,
            thread: Some(thread),
            not_send: PhantomData,
        })
    }

    /// The guest is entered now.
    pub fn enter(&self) {
        let shared = &self.shared;
        let now = shared.now();
        // The watchdog says when it looks next, and looks then; this is the other way round, so that
        // one of the two sees what the other one said.
        shared.entered.store(now, Ordering::SeqCst);
        let is_late = shared.looks_at.load(Ordering::SeqCst) > shared.due(now);
        if is_late && let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// The guest made an exit.
    pub fn leave(&self) {
        self.shared.entered.store(OUT, Ordering::Relaxed);
    }

    /// How long the guest may run without an exit from now on, and for how long it is not stopped
    /// at all.
    pub fn set_interval(&self, interval: Duration, pause: Duration) {
        let shared = &self.shared;
        let not_before = shared.now() + pause.as_nanos() as u64;
        shared.not_before.store(not_before, Ordering::Relaxed);
        let nanos = interval.as_nanos() as u64;
        shared.interval.store(nanos, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// When a guest that was entered at `entered` is to be stopped.
    fn due(&self, entered: u64) -> u64 {
        let interval = self.interval.load(Ordering::Relaxed);
        let not_before = self.not_before.load(Ordering::Relaxed);
        not_before.max(entered.saturating_add(interval))
    }

    fn watch(&self, target: Target) {
        // Intervals are short while a guest is held up. Without this, Linux adds 50 us to each.
        let _ = prctl::set_timerslack(1);
        while !self.over.load(Ordering::Relaxed) {
            self.looks_at.store(AT_ENTRY, Ordering::SeqCst);
            let entered = self.entered.load(Ordering::SeqCst);
            if entered == OUT {
                thread::park();
                continue;
            }
            let (due, now) = (self.due(entered), self.now());
            let next = if due <= now {
                target.kick();
                now + self.interval.load(Ordering::Relaxed) / u64::from(AGAIN)
            } else {
                due
            };
            self.looks_at.store(next, Ordering::SeqCst);
            thread::park_timeout(Duration::from_nanos(next.saturating_sub(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::time::TimeSpec;
    use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

    use super::*;

    /// Sleeps for a minute, or until a signal.
    fn interrupted() -> bool {
        let minute = TimeSpec::new(60, 0);
        let flags = ClockNanosleepFlags::empty();
        clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &minute).is_err()
    }

    #[test]
    fn kicks_who_runs_too_long_and_no_one_else() {
        let watchdog = Watchdog::start(Duration::from_millis(5)).expect("starts");
        watchdog.enter();
        assert!(interrupted());
        watchdog.leave();
        watchdog.set_interval(Duration::from_millis(1), Duration::ZERO);
        watchdog.enter();
        assert!(interrupted());
    }

    fn wait_until_it_looks(watchdog: &Watchdog, is: impl Fn(u64) -> bool) {
        while !is(watchdog.shared.looks_at.load(Ordering::SeqCst)) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_shorter_interval_holds_whatever_it_sleeps_for() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let watchdog = Watchdog::start(hour).expect("starts");
        for pause in [Duration::ZERO, hour] {
            watchdog.set_interval(hour, pause);
            watchdog.enter();
            let is_late = |at| at != AT_ENTRY && at > minute.as_nanos() as u64;
            wait_until_it_looks(&watchdog, is_late);
            watchdog.leave();
            watchdog.set_interval(Duration::from_millis(1), Duration::ZERO);
            watchdog.enter();
            assert!(interrupted());
            watchdog.leave();
        }
    }

    #[test]
    fn does_nothing_while_the_guest_is_out() {
        let watchdog = Watchdog::start(Duration::from_micros(250)).expect("starts");
        wait_until_it_looks(&watchdog, |at| at == AT_ENTRY);
        watchdog.enter();
        assert!(interrupted());
        watchdog.leave();
        wait_until_it_looks(&watchdog, |at| at == AT_ENTRY);
    }

    #[test]
    fn its_thread_ends_with_it() {
        let watchdog = Watchdog::start(Duration::from_secs(3600)).expect("starts");
        let shared = Arc::downgrade(&watchdog.shared);
        drop(watchdog);
        assert!(shared.upgrade().is_none());
    }
}
