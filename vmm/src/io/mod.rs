//! This host's side of the guest's network and console.

mod announce;
mod bridge;
mod console;
mod departure;
mod outlet;
mod tap;

pub use announce::Announcer;
pub use bridge::{Bridge, BridgeError, remove_tap};
pub use console::{ConsoleSink, INTERRUPTED, LAST_WORDS, Terminal, TerminalError, Typed, Viewer};
pub use departure::Departure;
pub use outlet::Outlet;
pub use tap::{Tap, TapError};
