//! This host's side of the guest's network and console.

mod announce;
mod console;
mod outlet;
mod screen;
mod tap;

pub use announce::announcement;
pub use console::{ConsoleSink, Terminal, TerminalError};
pub use outlet::Outlet;
pub use tap::{Tap, TapError};
