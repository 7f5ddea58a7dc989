//! The arbiter: who may run a virtual machine alone.
//!
//! A virtual machine has an *epoch*, 0 until somebody claims it. Every change of who runs it, and of who
//! is its backup, is a step to the next epoch, which a member of the current *view* asks for: its primary
//! that takes a backup, or one of the two that lost the other. The arbiter lets exactly one claimant do
//! that, and has the decision on stable storage before it answers. Of two that lost each other the winner
//! goes live, the loser halts, and a host that gets no answer waits.
//!
//! - [`decide`] is the decision, a pure function of the current record and the request.
//! - [`EpochStore`] keeps the records, and never lets an epoch go back.
//! - [`protocol`] is the wire format.
//! - [`Arbiter`] is the client that the virtual machine monitor uses.

mod address;
mod client;
mod connection;
mod decision;
pub(crate) mod lines;
mod names;
#[cfg(feature = "next-protocol")]
mod next;
pub mod protocol;
pub(crate) mod session;
mod store;

pub use address::{AddressError, ServerAddress};
pub use client::{Arbiter, Claim, ClaimError, Settings, WaitReason};
pub use connection::CallError;
pub use decision::{Answer, ClaimRequest, MAX_EPOCH, Next, Record, STOPPED, acknowledge, decide};
pub use names::{Claimant, HostName, NameError, ServerNumber, ServerNumberError, VmName};
pub use store::{EpochStore, Forgotten, STATE_FILE, StoreError};
