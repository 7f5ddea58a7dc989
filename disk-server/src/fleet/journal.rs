//! What happened to guests and hosts, one entry for each transition.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::order::OrderNumber;
use super::status::State;
use crate::arbiter::{Claimant, HostName, VmName};
use crate::views::Text;

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up, also over restarts of the service.
    pub number: u64,
    /// When, by the service's clock.
    pub unix_ms: u64,
    /// Of whom.
    pub subject: Subject,
    /// What.
    pub what: What,
}

/// Whom an [`Entry`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A guest.
    Vm(VmName),
    /// A host.
    Host(HostName),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An operator asked for something, and it was accepted.
    Ordered {
        /// Who.
        by: Text,
        /// What, in words.
        what: Text,
        /// The number.
        order: OrderNumber,
    },
    /// What was asked for is done.
    Done {
        /// The number.
        order: OrderNumber,
        /// How it went, in words.
        how: Text,
    },
    /// What was asked for is not done.
    Failed {
        /// The number.
        order: OrderNumber,
        /// Why, in words.
        why: Text,
    },
    /// What was asked for has not come about yet, and is tried again later.
    Deferred {
        /// The number.
        order: OrderNumber,
        /// Why, and when, in words.
        why: Text,
    },
    /// The guest has another view.
    View {
        /// Its number.
        view: u64,
        /// Its primary; `None` if the guest has stopped.
        primary: Option<Claimant>,
        /// Its backup.
        backup: Option<Claimant>,
    },
    /// The guest is in another state.
    State(State),
    /// A host went live with the guest.
    Failover {
        /// The view that it won.
        view: u64,
        /// For how long the guest stood still, in milliseconds, from its last sign on the host before.
        outage_ms: u64,
        /// Where it ran before.
        from: Option<HostName>,
        /// Where it runs.
        to: HostName,
        /// Why; `None` in entries of a service that did not know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// A process of the guest has ended.
    Ended {
        /// On this host.
        host: HostName,
        /// Its exit status, or 128 and the number of the signal that ended it; `None` if nobody saw how it ended.
        status: Option<i32>,
        /// What it said last, or which signal.
        reason: Text,
    },
    /// The host is alive: its pings come.
    Live {},
    /// The host is dead: its pings stay away.
    Dead {},
}

/// Why a guest went on on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// This order of the guest.
    Order(OrderNumber),
    /// The host before is to be empty, by this order.
    Drain(OrderNumber),
    /// Its primary was lost, or has left by itself.
    Loss {},
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(order) => write!(f, "by order {order}"),
            Self::Drain(order) => write!(f, "by drain, order {order}"),
            Self::Loss {} => f.write_str("as its primary went away"),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(vm) => vm.fmt(f),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}
