//! This host's side of the guest's network and console.

mod announce;
mod console;
mod lossy;
mod outlet;
mod tap;

pub use announce::Announcer;
pub use console::{ConsoleSink, INTERRUPTED, LAST_WORDS, Terminal, TerminalError};
pub(crate) use lossy::{AppendedFile, LossyWriter, Lost, Weight, of_descriptor, stderr};
pub use lossy::{finish, reopen_files, say};
pub use outlet::Outlet;
pub use tap::{Tap, TapError};
