//! The arbiter in real processes.

mod claims;
mod fleet;
mod process;
mod rights;
#[path = "../support/mod.rs"]
mod support;
mod views;
