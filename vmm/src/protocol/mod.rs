//! What a host decides about its guest and its peer: pure machines, without sockets, threads, clocks
//! or files. What happens goes in, with the time where that matters, and what is to be done comes out.
//! `roles` drives them, and so does the simulator (`cargo xtask simulate`), which has no other description
//! of the protocol.
//!
//! - [`epoch`]: who may run the guest, when the hosts lose each other and the disk server decides.
//! - [`rights`]: what the disk server's record says of that.

pub mod epoch;
pub mod rights;
