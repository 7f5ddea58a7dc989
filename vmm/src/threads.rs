//! Threads, which a host may have none of to give. A guest goes on without those of one of its many
//! sessions, and waits for those that it needs wherever it runs.

#[cfg(test)]
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use confinement::Calls;
use parking_lot::Mutex;

/// How soon a host that had no thread to give is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Of threads in processes that are not confined.
pub(crate) const UNCONFINED: &[Calls] = &[];

#[cfg(test)]
thread_local! {
    /// So many threads this one can start yet.
    pub(crate) static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// Starts a thread, which makes these system calls beside those that every thread makes, where this process is
/// confined.
///
/// # Errors
/// The host gives none: with what to do about it.
pub(crate) fn start(
    name: &str,
    calls: &'static [Calls],
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let named = thread::Builder::new().name(name.into());
    #[cfg(test)]
    let named = match LEFT.get() {
        // No address space has room for its stack.
        0 => named.stack_size(usize::MAX / 2),
        left => {
            LEFT.set(left - 1);
            named
        }
    };
    confinement::spawn(named, calls, run).map_err(|error| {
        let text = format!(
            "this host gives no further thread ({error}): raise TasksMax= of its service, or \
             kernel.threads-max, or give it more memory"
        );
        io::Error::new(error.kind(), text)
    })
}

/// Starts a thread that the guest needs. A host that has won the guest and gives none may be the only one
/// that has it: it is asked again for as long as it takes.
pub(crate) fn insist(
    name: &str,
    calls: &'static [Calls],
    run: impl FnOnce() + Send + 'static,
) -> JoinHandle<()> {
    insist_after(name, calls, run, || thread::sleep(AGAIN))
}

fn insist_after(
    name: &str,
    calls: &'static [Calls],
    run: impl FnOnce() + Send + 'static,
    mut pause: impl FnMut(),
) -> JoinHandle<()> {
    // What a thread is to run is gone with one that does not start.
    let run = Arc::new(Mutex::new(Some(run)));
    let mut told = false;
    loop {
        let run = run.clone();
        let started = start(name, calls, move || {
            if let Some(run) = { run.lock().take() } {
                run();
            }
        });
        match started {
            Ok(thread) => return thread,
            Err(error) if told => log::debug!("{error}"),
            Err(error) => log::error!("the guest waits for a thread ({name}): {error}"),
        }
        told = true;
        pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_the_guest_needs_is_waited_for() {
        let (ran, has_run) = crossbeam_channel::bounded(1);
        LEFT.set(0);
        let mut pauses = 0;
        let thread = insist_after(
            "test",
            &[],
            move || ran.send(()).expect("it is waited for"),
            || {
                pauses += 1;
                LEFT.set(u32::from(pauses == 3));
            },
        );
        LEFT.set(u32::MAX);
        thread.join().expect("it does not panic");
        assert_eq!((pauses, has_run.recv()), (3, Ok(())));
    }
}
