//! What a host decides about its guest and its peer: pure machines, without sockets, threads, clocks
//! or files. What happens goes in, with the time where that matters, and what is to be done comes out.
//! `roles` drives them, and so does the simulator (`cargo xtask simulate`), which has no other description
//! of the protocol. The two ends of a session are in [`logging_channel::protocol`].
//!
//! - [`epoch`]: who may run the guest, when the hosts lose each other and the disk server decides.
//! - [`rights`]: what the disk server's record says of that.
//! - [`live`]: a host that runs the guest, alone or with a backup; [`outputs`]: what waits there, and may not
//!   have left.
//! - [`pings`]: what a host tells the view service, and what an idle one is proposed.
//! - [`follower`]: a backup, and whether it may go live.

pub mod epoch;
pub mod follower;
pub mod live;
pub mod outputs;
pub mod pings;
pub mod rights;
