//! The disks of a server: real processes, real sockets, and clients of several kinds.

mod client;
mod crash;
mod device;
mod disks;
mod fencing;
mod foreign;
mod hanging;
mod hostile;
mod ledger;
mod logs;
mod metrics;
mod names;
mod power;
mod room;
mod semantics;
mod slow;
mod status;
#[path = "../support/mod.rs"]
mod support;
