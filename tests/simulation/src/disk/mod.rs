//! The guest's disk: what the guest does with it, the host that has its requests done, the way to the
//! disk server, and what that keeps them on.
//!
//! Which requests go out, and go out again, is decided by the product's
//! [`Scheduler`](ftvm_vmm::disk::scheduler::Scheduler) and
//! [`Followed`](ftvm_vmm::disk::followed::Followed), and who may write by the disk server's
//! [`Rights`](::disk_server::fence::Rights).

pub(crate) mod client;
pub(crate) mod guest;
pub(crate) mod medium;
pub(crate) mod server;
pub(crate) mod wire;
