//! ftvm's disk server: what two hosts of a replicated virtual machine share.
//!
//! Today it is the *arbiter*: an atomic, durable test-and-set that decides which of the two may
//! run alone after they lost each other (Scales et al. 2010, section 2.3, "go live"). It is
//! generalised from a flag to an **epoch** for each virtual machine. The block export (NBD) joins
//! it here, because fencing a disk request means comparing its epoch with the arbiter's.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`arbiter`] | the decision, its durable store, its wire protocol, and the client |
//! | [`server`] | the process: sockets, connection bounds, start and orderly end |
//! | [`status`] | the table that `disk-server status` prints |

pub mod arbiter;
pub mod nbd;
pub mod server;
pub mod status;
