//! The shared disk: what the guest asks of it, and who does it.
//!
//! The device ([`crate::devices::virtio::blk`]) turns what the driver put into its queue into
//! [`DiskRequest`]s, which leave the guest as outputs. A live gate hands them to a [`DiskPort`];
//! each is answered with one [`DiskCompletion`], which reaches the guest as an input, at a logged
//! execution point.
//!
//! A live host's port is a [`service::DiskService`]: it has the disk server do the requests, as
//! their [`order`] allows, over a connection that it opens again whenever it is lost. What it decides is in
//! the [`scheduler`].

mod complaints;
pub mod counters;
mod dispatch;
pub mod followed;
pub mod guest_disk;
mod inbox;
pub mod link;
pub mod order;
pub mod pieces;
pub mod progress;
pub mod reader;
mod refusal;
mod request;
pub mod scheduler;
pub mod service;
pub mod serving;
pub mod target;
pub mod unflushed;
pub mod uri;

pub use refusal::{RefusalNotice, WriterRefused};
pub use request::{DiskCompletion, DiskError, DiskOp, DiskPort, DiskRequest, ReadWatch};
pub use request::{SharedDisk, SharedRead, SharedReadError};

/// Largest read or write in bytes. What the guest asks for beyond it is an error.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// Unit of the guest's addresses on the disk, in bytes (virtio 1.2, section 5.2.4).
pub const SECTOR_BYTES: u64 = 512;
