//! The arbiter in real processes.

mod claims;
mod process;
mod support;
