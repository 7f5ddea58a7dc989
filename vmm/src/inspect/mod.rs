//! Stops a replay, and shows the guest there to a user or a debugger.
//!
//! [`Inspector`] is an event source around another one. It asks nothing of the engine: what it
//! does happens where the guest is about to run on ([`EventSource::depart`]).
//!
//! [`EventSource::depart`]: crate::engine::EventSource::depart

mod debugger;
mod dump;
mod excursion;
mod inspector;
mod point;
mod request;
mod stub;

pub use debugger::Debugger;
pub use dump::{DumpError, Dumps, Format, write_memory};
pub use inspector::{Arrival, Inspector};
pub use point::{BadPoint, Point};
