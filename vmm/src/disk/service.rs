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
//! [`super::order`]; what happens when the connection is lost, in `dispatch.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use logging_channel::DiskIdentity;
use logging_channel::entry::Lsn;

use super::dispatch::{Dispatcher, Message};
use super::inbox::{Post, inbox};
use super::link::{Link, LinkSettings};
use super::progress::{LogProgress, ProgressWatch};
use super::target::DiskTarget;
use super::unflushed::Unflushed;
use super::{DiskCompletion, DiskPort, DiskRequest, ReadWatch, RefusalNotice};
use crate::events::Events;

/// How the disk of a guest is served.
#[derive(Debug, Clone, Copy)]
pub struct DiskSettings {
    /// How long a request is tried before the guest gets an I/O error.
    pub timeout: Duration,
    /// How long pauses between attempts to connect are.
    pub link: LinkSettings,
    /// Whether the backup reads the disk itself: then changes of what the guest has read wait
    /// until the backup has executed that.
    pub backup_reads: bool,
}

impl DiskSettings {
    /// How long a request is tried where nobody said otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(300);
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self {
            timeout: Self::TIMEOUT,
            link: LinkSettings::default(),
            backup_reads: false,
        }
    }
}

/// Who serves a guest's disk, and for whom.
#[derive(Default)]
pub struct Serving {
    /// The epoch in which this host runs the guest, if it is one of a pair.
    pub epoch: Option<u64>,
    /// The log that changes of the disk wait for, if a backup has it.
    pub log: Option<Arc<dyn LogProgress>>,
    /// Whether the backup reads the disk itself.
    pub backup_reads: bool,
    /// Counts what the guest does with it.
    pub counters: DiskCounters,
    /// What the server may still lose of what an earlier host did, for one that goes live.
    pub unflushed: Unflushed,
    /// Is told when the server does not let this host write.
    pub refused: RefusalNotice,
}

/// What a guest did with its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFigures {
    /// Reads that were answered.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

#[derive(Debug, Default)]
struct Counted {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

/// Counts what a guest does with its disk. A handle.
#[derive(Debug, Clone, Default)]
pub struct DiskCounters(Arc<Counted>);

impl DiskCounters {
    pub(super) fn read(&self, bytes: usize) {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0
            .written_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was counted up to now.
    #[must_use]
    pub fn figures(&self) -> DiskFigures {
        DiskFigures {
            reads: self.0.reads.load(Ordering::Relaxed),
            read_bytes: self.0.read_bytes.load(Ordering::Relaxed),
            writes: self.0.writes.load(Ordering::Relaxed),
            written_bytes: self.0.written_bytes.load(Ordering::Relaxed),
        }
    }
}

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
        settings: DiskSettings,
        serving: Serving,
        events: Events,
        complete: impl Fn(DiskCompletion) + Send + 'static,
    ) -> Self {
        let (post, inbox) = inbox();
        let from_link = post.clone();
        let link = Link::start(target, identity, settings.link, move |event| {
            from_link.send(Message::Link(event))
        });
        let counters = serving.counters.clone();
        let log = serving.log.clone().map(|log| {
            let post = post.clone();
            let watch = ProgressWatch::start(log.clone(), move || post.send(Message::LogMoved));
            (log, watch)
        });
        let dispatcher = Dispatcher::new(link, log, settings, serving, events, Box::new(complete));
        thread::Builder::new()
            .name("disk".into())
            .spawn(move || dispatcher.run(&inbox))
            .expect("a thread can be started");
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
