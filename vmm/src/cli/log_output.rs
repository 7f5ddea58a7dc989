//! Where the log goes: standard error, of which nobody here waits for the reader.

use std::backtrace::Backtrace;
use std::env;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::thread;

use env_logger::{Builder, Env};

use crate::io::LAST_WORDS;

/// Starts the log, at the level that `RUST_LOG` says.
pub(super) fn start() {
    let colours = std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    // A disk server within this process has a selftest's guest as its only client.
    let env = Env::default()
        .default_filter_or(
            "info,gdbstub=warn,virtio_queue=off,disk_server::nbd=warn,disk_server::arbiter=error",
        )
        .default_write_style_or(if colours { "always" } else { "never" });
    disk_server::logging::to_stderr(&mut Builder::from_env(env)).init();
    std::panic::set_hook(Box::new(tell_panic));
}

/// Tells of a panic as the standard library does, but does not wait for whoever reads it: the process
/// would stay, half alive, and its peer would not take over.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture();
    disk_server::lossy_writer::say(&format!("ftvm: thread {name} {panic}\n{backtrace}\n"));
    disk_server::lossy_writer::finish(LAST_WORDS);
}
