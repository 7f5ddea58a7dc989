//! ftvm's virtual machine monitor: runs a uniprocessor guest on KVM, records every input that it
//! could not reproduce by itself, and replays such a record bit for bit.
//!
//! - [`cpu`]: the processor as the engine sees it; [`kvm`] implements it.
//! - [`devices`]: the devices, as functions of their state, an exit and logged inputs.
//! - [`disk`]: the shared disk behind one of them.
//! - [`boot`]: puts a kernel into guest memory.
//! - [`engine`]: runs the guest from exit to exit; [`sources`] feed it, live or from a log.
//! - [`host`]: looks after the guests of a host, each a process of its own.
//! - [`inspect`]: stops a replay, and shows the guest there to a user or a debugger.
//! - [`state`]: the guest's state as a whole, transferred and compared.

pub mod assembly;
pub mod bell;
pub mod boot;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod counter;
pub mod counter_trial;
pub mod cpu;
pub mod devices;
pub mod dice;
pub mod disk;
pub mod doctor;
pub mod elsewhere;
pub mod engine;
pub mod events;
pub mod fake_cpu;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gates;
pub mod host;
mod host_kernel;
pub mod inspect;
pub mod io;
mod kick;
pub mod kvm;
mod lines;
pub mod network_test;
pub mod operator;
mod page_tables;
pub mod protocol;
pub mod ram;
pub mod report;
pub mod rewrite;
pub mod roles;
pub mod selftest;
pub mod sources;
pub mod state;
mod threads;
pub mod traps;
pub mod tsc_cache;
