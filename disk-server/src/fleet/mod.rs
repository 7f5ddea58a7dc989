//! The fleet: guests that are described once, and the hosts that look after them.
//!
//! An operator says what is to be: which guests there are, that they run, that a host is to be empty. The
//! service keeps that, and the hosts carry it out: each run of ftvm pings, and the answer may have an
//! [`Order`] for it.
//!
//! ```text
//!     operator                    service                       host
//!       | -- start db --------------> |                           |
//!       | <----------------- order 7  | <------ ping: I have room |
//!       |                             | -- order: start db -----> |  runs `ftvm primary`
//!       | -- how is db? ------------> | <-- ping: I run db, alone |
//! ```
//!
//! Who may run a guest is decided as ever, by test-and-set between the members of its view. Orders are
//! about membership: one that is late, lost or wrong costs time and nothing else.

mod definition;
mod drains;
mod intents;
mod journal;
mod journal_file;
mod machine;
mod operation;
mod order;
mod orders;
mod pending;
mod plan;
mod refused;
mod seen;
mod service;
mod starting;
mod state;
mod status;
mod store;
#[cfg(test)]
mod tests;

pub use definition::{
    Definition, DefinitionError, Image, ImageDigest, ImageDigestError, LagBounds, MAX_DEFINITION,
    NamedHosts,
};
pub use intents::{Intents, MAX_DRAINED, MAX_GUESTS};
pub use journal::{Cause, Entry, Subject, What};
pub use journal_file::{JOURNAL_FILE, MAX_ENTRIES, Turns};
pub use machine::{Fleet, Records};
pub use operation::{Answer, HostVerb, Operation, Verb};
pub use order::{Order, OrderNumber};
pub use plan::{Plan, Planned};
pub use refused::Refused;
pub use service::{Arbitrated, FleetService, OperateError};
pub use status::{
    Failover, Failure, LagColour, MAX_UNFIT, Member, Placement, Reason, State, VmStatus,
};
pub use store::FLEET_FILE;
