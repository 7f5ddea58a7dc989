//! A host that looks after its guests: the daemon behind `ftvm host`.
//!
//! ```text
//!    disk server                daemon                      guests
//!       | <---- ping: my guests -- |                          |
//!       | -- order: start db ----> | -- runs ftvm primary --> db
//!       |                          |    in a session of its own
//!       | <------------------------------- pings of its own -- |
//!       | <---- ping: db, ended -- | <------- its lock is free |
//! ```
//!
//! A guest's process is on its own: it pings, claims, and takes its orders itself. The daemon starts it,
//! tells that it is there and how it ended, and may end and come back at any time.

mod config;
mod console;
mod control;
mod daemon;
mod event_file;
mod figures;
mod folders;
mod guest_file;
mod hindrances;
mod images;
mod local;
mod machine;
mod memory;
mod metrics;
mod process;
mod serving;
mod sockets;
mod starter;
mod tending;
mod upkeep;

pub use config::{CONFIG_FILE, CONSOLE_PORT, Config, ConfigError};
#[cfg(any(test, fuzzing))]
pub(crate) use console::asked_for;
pub use daemon::{Daemon, DaemonError, Surroundings};
pub use folders::{FolderError, host_socket, papers};
pub use hindrances::{Hindrance, hindrances};
pub use images::{ImageError, Images};
pub use sockets::ListenError;
pub use starter::{Network, command_line};
pub use tending::{Guest, Task, Tending};
