//! The operator's side: what a person asks of the service, and how the answers are told.
//!
//! ```text
//!     cli::operator ----> client ----------------> service     orders and questions
//!          |                 ^      local -------> this host   where the service does not answer
//!          |                 |
//!          | waiting --------'                                 until an order is done
//!          | console ------------------------> a host's daemon
//!          | top                                               all of it on one screen
//!          | notify -------> a command                         for each transition
//!          '---> view, json <-- hosts, words                   how it is told: to people, to programs
//! ```

pub mod client;
pub mod console;
pub mod define;
#[cfg(test)]
mod fake;
pub mod hosts;
pub mod json;
pub mod local;
pub mod notify;
pub mod settings;
pub mod states;
pub mod table;
pub mod top;
pub mod view;
pub mod waiting;
pub mod words;
