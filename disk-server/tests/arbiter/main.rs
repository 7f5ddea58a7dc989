//! The arbiter in real processes.

mod claims;
mod fleet;
mod keys;
mod process;
mod rights;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod views;
