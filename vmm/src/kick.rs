//! The kick: a signal that makes `KVM_RUN` return, and of which nothing else is made.

use std::io;

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// The number of the signal. From now on it ends system calls; before, it would end the process.
///
/// # Errors
/// The system's.
pub(crate) fn handled_signal() -> io::Result<c_int> {
    let signal = SIGRTMIN();
    register_signal_handler(signal, nothing)?;
    Ok(signal)
}
