//! The arbiter: who may run a virtual machine alone.
//!
//! A virtual machine has an *epoch*, 0 until somebody claims it. A host that lost its peer asks to
//! move the epoch on by one; the arbiter lets exactly one claimant do that, and has the decision on
//! stable storage before it answers. The winner goes live, the loser halts, and a host that gets
//! no answer waits.
//!
//! - [`decide`] is the decision, a pure function of the current record and the request.
//! - [`EpochStore`] keeps the records, and never lets an epoch go back.
//! - [`protocol`] is the wire format.
//! - [`Arbiter`] is the client that the virtual machine monitor uses.

mod address;
mod client;
mod connection;
mod decision;
mod lines;
mod names;
pub mod protocol;
pub(crate) mod session;
mod store;

pub use address::{AddressError, ServerAddress};
pub use client::{Arbiter, Claim, ClaimError, Settings, WaitReason};
pub use connection::CallError;
pub use decision::{Answer, ClaimRequest, MAX_EPOCH, Record, decide};
pub use names::{Claimant, NameError, ServerNumber, ServerNumberError, VmName};
pub use store::{Damage, EpochStore, Forgotten, OpenStateError, STATE_FILE, StoreError};
