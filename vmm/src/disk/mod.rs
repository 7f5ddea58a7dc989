//! The shared disk: what the guest asks of it, and who does it.
//!
//! The device ([`crate::devices::virtio::blk`]) turns what the driver put into its queue into
//! [`DiskRequest`]s, which leave the guest as outputs. A live gate hands them to a [`DiskPort`];
//! each is answered with one [`DiskCompletion`], which reaches the guest as an input, at a logged
//! execution point.

mod request;

pub use request::{DiskCompletion, DiskError, DiskOp, DiskPort, DiskRequest, ReadWatch};
pub use request::{SharedDisk, SharedReadError};

/// Largest read or write in bytes. What the guest asks for beyond it is an error.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// Unit of the guest's addresses on the disk, in bytes (virtio 1.2, section 5.2.4).
pub const SECTOR_BYTES: u64 = 512;
