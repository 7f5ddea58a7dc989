//! Acts when the peer is lost.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Receiver;
use logging_channel::{ChannelEvent, LossReason};

use super::Halt;
use super::claim::Rights;
use super::standing::{Standing, Verdict};
use crate::events::{Event, Events};

/// One side of a pair, for the thread that watches the other side.
pub(super) struct PeerWatch {
    /// What the other side is, for messages.
    pub(super) peer: &'static str,
    /// Where its loss is announced.
    pub(super) lost: Receiver<ChannelEvent>,
    /// The epoch in which the pair runs.
    pub(super) epoch: u64,
    pub(super) rights: Arc<Rights>,
    pub(super) standing: Standing,
    pub(super) events: Events,
    pub(super) halt: Halt,
}

impl PeerWatch {
    /// Starts the thread: when the peer is lost, it asks for the right to run alone and makes the
    /// verdict known. A host that loses is halted; one that wins hears of it through `won`.
    pub(super) fn start(self, won: impl FnOnce(&Events, u64, Instant) + Send + 'static) {
        thread::Builder::new()
            .name("peer-watch".into())
            .spawn(move || self.run(won))
            .expect("a thread can be started");
    }

    fn run(self, won: impl FnOnce(&Events, u64, Instant)) {
        let reason = match self.rights.keep_warm_until(&self.lost) {
            None | Some(ChannelEvent::PeerLost(LossReason::Orderly)) => return,
            Some(ChannelEvent::PeerLost(reason)) => reason,
        };
        let lost_at = Instant::now();
        self.standing.contest();
        log::warn!("the {} is lost: {reason}", self.peer);
        self.events.emit(&Event::PeerLost {
            reason: reason.to_string(),
        });
        if let Err(reason) = self.standing.wait_readiness() {
            self.standing.decide(Verdict::Lost(reason));
            return;
        }
        let verdict = self.rights.run_alone(self.epoch, lost_at, &self.events);
        self.standing.decide(verdict.clone());
        match verdict {
            Verdict::Won { epoch, lost_at } => won(&self.events, epoch, lost_at),
            Verdict::Lost(reason) => {
                self.events.emit(&Event::Lost {
                    reason: reason.clone(),
                });
                (self.halt)(&reason);
            }
        }
    }
}
