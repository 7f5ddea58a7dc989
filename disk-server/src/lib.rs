//! ftvm's disk server: what two hosts of a replicated virtual machine share.
//!
//! It is the *arbiter*: an atomic, durable test-and-set that decides which of the two may run alone
//! after they lost each other (Scales et al. 2010, section 2.3, "go live"), generalised from a flag
//! to an **epoch** for each virtual machine. And it is the *shared disk*: a server of NBD, the
//! protocol of network block devices. Both are one process, because fencing a write means comparing
//! its epoch with the arbiter's, and holding the arbiter's answer back until the write has landed.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`arbiter`] | the decision, its durable store, its wire protocol, and the client |
//! | [`nbd`] | the disk's wire protocol, and the server's side of a connection |
//! | [`export`] | disks with names and owners, and the access of a connection to one |
//! | [`fleet`] | guests that are described once, what operators want of them, and what became of it |
//! | [`fence`] | no write of an earlier epoch lands after a later one was won |
//! | [`storage`] | image files and block devices |
//! | [`logging`], [`lossy_writer`] | the log, which nobody can fill; a writer that nobody waits for |
//! | [`monitoring`] | what a program tells those who watch it |
//! | [`policy`] | who may ask what |
//! | [`server`] | the process: sockets, connection bounds, start and orderly end |
//! | [`state`] | what must survive the process, in files that change as a whole |
//! | [`status`] | what `disk-server status` prints |
//! | [`views`] | which hosts there are, and which is to be a guest's next backup |

pub mod arbiter;
mod ending;
pub mod export;
pub mod fence;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod logging;
mod lookup;
pub mod lossy_writer;
pub mod monitoring;
pub mod nbd;
pub mod policy;
mod random;
pub mod server;
pub mod state;
pub mod status;
pub mod storage;
mod stream;
pub mod views;
