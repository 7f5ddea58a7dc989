//! The disk service against a server that breaks: every request is completed exactly once, with
//! what it would have found on a disk that never breaks.

mod failing;
mod fake_server;
mod handover;
mod opening;
mod reading;
mod real_server;
mod refusals;
mod service;
mod world;
