//! Threads for one of many sessions: a host may have none to give, and its guest goes on without.

#[cfg(test)]
use std::cell::Cell;
use std::io;
use std::thread::{self, JoinHandle};

#[cfg(test)]
thread_local! {
    /// So many threads this one can start yet.
    pub(crate) static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// Starts a thread.
///
/// # Errors
/// The host gives none: with what to do about it.
pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
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
    named.spawn(run).map_err(|error| {
        let text = format!(
            "this host gives no further thread ({error}): raise TasksMax= of its service, or \
             kernel.threads-max, or give it more memory"
        );
        io::Error::new(error.kind(), text)
    })
}
