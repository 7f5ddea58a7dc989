//! How a session ends, known once and for all.

use std::convert::Infallible;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

/// Why the peer is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossReason {
    /// The connection was closed or reset without a goodbye.
    Closed,
    /// Neither log nor heartbeat came for longer than the timeout.
    Silent {
        /// How long it has been.
        for_: Duration,
    },
    /// An output waited too long for its acknowledgement, whatever heartbeats said.
    Unacknowledged {
        /// How long it waited.
        for_: Duration,
    },
    /// The peer is heard, and was not known in time to hear: acknowledged outputs could not leave.
    Late {
        /// How long they could not.
        for_: Duration,
    },
    /// The guest was held up too long for a backup that did not catch up, whatever heartbeats said.
    Standstill {
        /// How long it was held up.
        for_: Duration,
    },
    /// The disk server does not answer this host, and answers the peer.
    NoStorage {
        /// How long it does not.
        for_: Duration,
    },
    /// It does not take the guest's memory, for this reason.
    Memory(String),
    /// This primary cannot serve it, for this reason.
    Unserved(String),
    /// This primary hands its guest over to it.
    HandedOver,
    /// This cold backup cannot keep the log.
    NotKept(String),
    /// The peer sent what no peer sends.
    Protocol(String),
    /// The log ended in order.
    Orderly,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Closed => f.write_str("the connection was closed without a goodbye"),
            LossReason::Silent { for_ } => {
                write!(f, "nothing was heard for {} ms", for_.as_millis())
            }
            LossReason::Unacknowledged { for_ } => write!(
                f,
                "an output waited {} ms for its acknowledgement",
                for_.as_millis()
            ),
            LossReason::Late { for_ } => write!(
                f,
                "for {} ms it was known too late that it hears this host: the network's round trip has to \
                 be well below --heartbeat-timeout",
                for_.as_millis()
            ),
            LossReason::Standstill { for_ } => write!(
                f,
                "the guest was held up for it, and it did not catch up for {} ms",
                for_.as_millis()
            ),
            LossReason::NoStorage { for_ } => write!(
                f,
                "the disk server answers it, and has not answered this host for {} ms",
                for_.as_millis()
            ),
            LossReason::Memory(why) => write!(f, "the guest's memory could not be sent: {why}"),
            LossReason::Unserved(why) => write!(f, "it cannot be served: {why}"),
            LossReason::HandedOver => f.write_str("the guest is handed over to it"),
            LossReason::NotKept(why) => write!(f, "this backup cannot keep the log: {why}"),
            LossReason::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
            LossReason::Orderly => f.write_str("the log ended in order"),
        }
    }
}

/// Something that a role must know at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// The session is over. Comes exactly once.
    PeerLost(LossReason),
}

/// Whether the session is over, and why.
#[derive(Debug)]
pub(crate) struct Loss {
    reason: OnceLock<LossReason>,
    announce: Sender<ChannelEvent>,
    events: Receiver<ChannelEvent>,
    /// Gone when it is over.
    lasting: Mutex<Option<Sender<Infallible>>>,
    over: Receiver<Infallible>,
}

impl Loss {
    pub(crate) fn new() -> Self {
        let (announce, events) = crossbeam_channel::bounded(1);
        let (lasting, over) = crossbeam_channel::bounded(0);
        Self {
            reason: OnceLock::new(),
            announce,
            events,
            lasting: Mutex::new(Some(lasting)),
            over,
        }
    }

    /// Declares the session over. Only the first reason counts; returns whether it was this one.
    pub(crate) fn declare(&self, reason: LossReason) -> bool {
        let first = self.reason.set(reason.clone()).is_ok();
        if first {
            // The one event that is ever sent, into a channel that has room for it.
            let _ = self.announce.try_send(ChannelEvent::PeerLost(reason));
            *self.lasting.lock() = None;
        }
        first
    }

    pub(crate) fn reason(&self) -> Option<&LossReason> {
        self.reason.get()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Waits until it is over.
    pub(crate) fn wait(&self) {
        let _ = self.over.recv();
    }

    pub(crate) fn events(&self) -> Receiver<ChannelEvent> {
        self.events.clone()
    }
}
