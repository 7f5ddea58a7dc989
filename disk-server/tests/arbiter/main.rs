//! The arbiter in real processes.

mod claims;
mod process;
#[path = "../support/mod.rs"]
mod support;
mod views;
