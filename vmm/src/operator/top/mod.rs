//! `ftvm top`: guests and hosts on one screen, as they are at the moment.
//!
//! [`Model`] knows what is on the screen and what a key means; [`draw()`] paints it; [`run`] has the terminal,
//! and a thread that asks the service.

mod draw;
mod keys;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod trend;

pub use draw::draw;
pub use keys::{Action, Key};
pub use model::{Model, Snapshot};
pub use screen::{TopError, run};
