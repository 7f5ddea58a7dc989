//! What people are told of a disk that does not do what it should: once, and when it is over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::target::DiskTarget;
use crate::events::{Event, Events};

/// A time without the disk server, or without its answers.
struct Outage {
    since: Instant,
    /// Why, as people were told.
    reasons: BTreeSet<String>,
}

impl Outage {
    /// So many reasons are told of one outage.
    const REASONS: usize = 8;

    fn begin(since: Instant) -> Self {
        Self {
            since,
            reasons: BTreeSet::new(),
        }
    }
}

/// What people know.
pub(super) struct News {
    /// Of a disk server that is lost, or silent.
    outage: Option<Outage>,
    /// Since when they know that the disk is full.
    full: Option<Instant>,
    /// They know that this host must not write.
    refused: bool,
    events: Events,
}

impl News {
    pub(super) fn new(events: Events) -> Self {
        Self {
            outage: None,
            full: None,
            refused: false,
            events,
        }
    }

    /// The disk server is out of reach. Each reason is told once.
    pub(super) fn is_lost(&mut self, error: &anyhow::Error) {
        self.is_out(format!("{error:#}"), Instant::now());
    }

    /// The disk server has the connection, and has not answered what it got at `since` and longer
    /// ago than `limit`.
    pub(super) fn is_silent(&mut self, target: &DiskTarget, since: Instant, limit: Duration) {
        let seconds = limit.as_secs_f64();
        let reason = format!(
            "{target}: its server is connected and has not answered a request for {seconds} s: it \
             hangs, or its disk does"
        );
        self.is_out(reason, since);
    }

    fn is_out(&mut self, reason: String, since: Instant) {
        let outage = self.outage.get_or_insert_with(|| Outage::begin(since));
        if outage.reasons.len() == Outage::REASONS || !outage.reasons.insert(reason.clone()) {
            log::debug!("{reason}");
            return;
        }
        self.waits(reason);
    }

    /// Whether people were told that the disk server is lost or silent.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.outage.is_some()
    }

    /// There is a connection, whose server answers.
    pub(super) fn is_back(&mut self, target: &DiskTarget) {
        if let Some(outage) = self.outage.take() {
            log::info!("the disk server is back; {target} goes on");
            self.goes_on(outage.since);
        }
    }

    /// There is no room for a change, which waits for `timeout`.
    pub(super) fn is_full(&mut self, target: &DiskTarget, timeout: Duration) {
        if self.full.is_some() {
            return;
        }
        self.full = Some(Instant::now());
        self.waits(format!(
            "{target} is full: make room where the disk server keeps it; what the guest changes \
             waits for up to {} s",
            timeout.as_secs()
        ));
    }

    /// No change waits for room.
    pub(super) fn has_room(&mut self, target: &DiskTarget) {
        if let Some(since) = self.full.take() {
            log::info!("{target} has room again");
            self.goes_on(since);
        }
    }

    /// The server does not let this connection write.
    pub(super) fn is_refused(&mut self, target: &DiskTarget) {
        if !std::mem::replace(&mut self.refused, true) {
            log::warn!(
                "the disk server does not let this connection write to {target} any more: another \
                 one took over, or the virtual machine that owns the export runs elsewhere"
            );
        }
    }

    /// A change was made.
    pub(super) fn writes(&mut self) {
        self.refused = false;
    }

    fn waits(&self, reason: String) {
        log::warn!("the guest's disk has to wait: {reason}");
        self.events.emit(&Event::DiskWaiting { reason });
    }

    fn goes_on(&self, since: Instant) {
        self.events.emit(&Event::DiskBack {
            after_ms: since.elapsed().as_millis() as u64,
        });
    }
}
