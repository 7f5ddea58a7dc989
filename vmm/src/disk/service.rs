//! The disk of a running guest: takes its requests, has the disk server do them, and hands their
//! completions back.
//!
//! ```text
//!   guest's thread ──submit──▶ disk ──▶ Requests ─┐
//!                               ▲ │                TCP  disk server
//!   lanes.disk ◀──completions───┼─┘   Replies ◀───┘
//!                               │        │
//!                               ├────────┘ disk-link: keeps the connection
//!                               └───────── disk-log: how far the backup is
//! ```
//!
//! The guest's thread never waits for the disk. What a request waits for is in
//! [`super::order`]; what happens when the connection is lost, in [`super::scheduler`].

use std::sync::Arc;

use logging_channel::DiskIdentity;
use logging_channel::entry::Lsn;
use transport::Endpoint;

use super::counters::DiskCounters;
use super::dispatch::Dispatcher;
use super::inbox::{Message, Post, inbox};
use super::link::Link;
use super::progress::ProgressWatch;
use super::serving::{DiskSettings, Serving};
use super::target::DiskTarget;
use super::{DiskCompletion, DiskPort, DiskRequest, ReadWatch};
use crate::events::Events;
use crate::threads;

/// A disk that serves a guest, until the last handle of it is dropped. What is under way then may or
/// may not happen, as when a computer is switched off.
#[derive(Clone)]
pub struct DiskService(Arc<Handle>);

struct Handle {
    post: Post,
    counters: DiskCounters,
}

impl DiskService {
    /// Serves a guest from `target`, which must be the disk `identity`. Requests with a log entry
    /// wait for the log, if there is one. `complete` gets every completion, on the service's thread.
    #[must_use]
    pub fn start(
        target: DiskTarget,
        identity: DiskIdentity,
        endpoint: Endpoint,
        settings: DiskSettings,
        serving: Serving,
        events: Events,
        complete: impl Fn(DiskCompletion) + Send + 'static,
    ) -> Self {
        let (post, inbox) = inbox();
        let from_link = post.clone();
        let link = Link::start(target, identity, endpoint, settings.link, move |event| {
            from_link.send(Message::Link(event))
        });
        let counters = serving.counters.clone();
        let log = serving.log.clone().map(|log| {
            let post = post.clone();
            let watch = ProgressWatch::start(log.clone(), move || post.send(Message::LogMoved));
            (log, watch)
        });
        let dispatcher = Dispatcher::new(link, log, settings, serving, events, Box::new(complete));
        threads::insist("disk", &[], move || dispatcher.run(&inbox));
        Self(Arc::new(Handle { post, counters }))
    }

    /// What the guest did with its disk.
    #[must_use]
    pub fn counters(&self) -> &DiskCounters {
        &self.0.counters
    }
}

impl Handle {
    fn send(&self, message: Message) {
        // Fails when this host lost its right to run: then nothing may go out.
        let _ = self.post.send(message);
    }
}

impl DiskPort for DiskService {
    fn submit(&mut self, request: DiskRequest, commit: Option<Lsn>) {
        self.0.send(Message::Submit(request, commit));
    }
}

impl ReadWatch for DiskService {
    fn completed(&mut self, id: u64, shared: Option<Lsn>) {
        self.0.send(Message::Logged(id, shared));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Message::Stop);
    }
}
