//! What the disk's thread does with requests, answers, lost connections and passing time.
//!
//! A lost connection says nothing about what was under way on it. Everything unanswered is sent
//! again on the next one, and before that everything that was answered and not flushed
//! ([`super::unflushed`]). Doing a request twice is harmless: nothing that overlaps it came in
//! between, because what overlaps waits for its answer, and the server lets no earlier connection
//! of a writer write any more once there is a later one.
//!
//! A server that refuses a change ("not permitted") is not the guest's business. The connection's
//! right has ended for good, so another one is opened: it takes over, or the server says why it does
//! not. If that is because the epoch is over, this host either wins a new one, and sends the request
//! again in that; or it is halted.

mod line;
mod news;
mod own_flushes;
mod telling;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk_server::nbd::client::ConnectError;
use disk_server::nbd::protocol::ReplyType;
use logging_channel::entry::Lsn;

use self::line::Line;
use self::news::News;
use self::own_flushes::OwnFlushes;
use self::telling::BackupView;
use super::complaints::Complaints;
use super::counters::DiskCounters;
use super::followed::DiskNotice;
use super::inbox::{Inbox, Message};
use super::link::{Link, LinkError, LinkEvent, Up};
use super::order::{Effect, Order, Ticket};
use super::progress::{LogProgress, ProgressWatch, Reached};
use super::request::Told;
use super::serving::{DiskSettings, Serving};
use super::unflushed::Unflushed;
use super::{DiskCompletion, DiskError, DiskOp, DiskRequest, RefusalNotice, WriterRefused};
use crate::events::Events;

/// How exact the time limit of a request is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A request of the guest that was not completed, or a read that keeps its place.
struct OpenRequest {
    request: Arc<DiskRequest>,
    /// Since when nobody but the server is waited for.
    due_since: Option<Instant>,
}

/// The disk's thread.
pub(super) struct Dispatcher {
    link: Link,
    line: Option<Line>,
    log: Option<(Arc<dyn LogProgress>, ProgressWatch)>,
    /// The session for whose backup requests wait, if there is one.
    session: Option<Lsn>,
    /// A backup that executes the log reads the disk itself.
    backup_reads: bool,
    /// This host lost: nothing goes out.
    halted: bool,
    order: Order,
    unflushed: Unflushed,
    own_flush: OwnFlushes,
    /// What the backup knows of what the server may lose.
    backup_view: BackupView,
    /// The number of the server's start on the last connection.
    boot: Option<u64>,
    pending: BTreeMap<Ticket, OpenRequest>,
    /// Tickets by the request's id, for reads that are held until their completion is logged.
    tickets: BTreeMap<u64, Ticket>,
    next_transfer: u64,
    timeout: Duration,
    told_after: Duration,
    next_look: Instant,
    notice: RefusalNotice,
    news: News,
    complaints: Complaints,
    counters: DiskCounters,
    complete: Box<dyn Fn(DiskCompletion) + Send>,
}

impl Dispatcher {
    pub(super) fn new(
        link: Link,
        log: Option<(Arc<dyn LogProgress>, ProgressWatch)>,
        settings: DiskSettings,
        serving: Serving,
        events: Events,
        complete: Box<dyn Fn(DiskCompletion) + Send>,
    ) -> Self {
        Self {
            link,
            line: None,
            log,
            session: None,
            backup_reads: serving.backup_reads,
            halted: false,
            order: Order::default(),
            unflushed: serving.unflushed,
            own_flush: OwnFlushes::default(),
            backup_view: BackupView::default(),
            boot: None,
            pending: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_transfer: 0,
            timeout: settings.timeout,
            told_after: settings.told_after,
            next_look: Instant::now(),
            notice: serving.refused,
            news: News::new(events),
            complaints: Complaints::default(),
            counters: serving.counters,
            complete,
        }
    }

    pub(super) fn run(mut self, inbox: &Inbox) {
        loop {
            let looks = !self.pending.is_empty();
            let first = inbox.next(looks.then_some(self.next_look));
            // What has come meanwhile belongs into the same batch of commands.
            for message in first.into_iter().chain(inbox.rest()) {
                match message {
                    Message::Stop => return self.stop(),
                    other => self.take(other),
                }
            }
            if Instant::now() >= self.next_look {
                self.look_at_clock();
            }
            self.look_at_log();
            self.send();
            // What the log did since that look is announced to nobody.
            while self.want() {
                self.look_at_log();
                self.send();
            }
            self.tell_backup();
        }
    }

    fn stop(self) {
        if let Some(line) = self.line {
            line.requests.disconnect();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit(request, commit) => self.submit(request, commit),
            Message::Logged(id, shared) => match (self.tickets.remove(&id), shared) {
                (Some(ticket), Some(lsn)) => {
                    self.counters.shared();
                    self.order.logged(ticket, lsn);
                }
                (Some(ticket), None) => self.order.let_go_of(ticket),
                (None, _) => {}
            },
            Message::Link(LinkEvent::Up(up)) => self.up(*up),
            Message::Link(LinkEvent::Reply(generation, reply)) => {
                self.on_line(generation, |this, line| this.reply(line, reply));
                self.look_for_silence(Instant::now());
            }
            Message::Link(LinkEvent::Down(generation, error)) => {
                if self.line.as_ref().map(|line| line.generation) == Some(generation) {
                    self.hang_up();
                    self.lost(&error.into());
                }
            }
            Message::Link(LinkEvent::Failed(error)) => {
                if let LinkError::Connect(ConnectError::Refused {
                    kind: ReplyType::ErrPolicy,
                    export,
                    ..
                }) = &error
                    && *export == self.link.target().export_name()
                {
                    self.notify_refused(&error.to_string());
                }
                self.lost(&error.into());
            }
            Message::LogMoved | Message::Stop => {}
        }
    }

    /// Does something with the connection, if it is this one.
    fn on_line(&mut self, generation: u64, act: impl FnOnce(&mut Self, &mut Line) -> bool) {
        match self.line.take() {
            Some(mut line) if line.generation == generation => {
                if act(self, &mut line) {
                    self.line = Some(line);
                } else {
                    line.requests.disconnect();
                    self.forget_line();
                }
            }
            other => self.line = other,
        }
    }

    fn submit(&mut self, request: DiskRequest, commit: Option<Lsn>) {
        let effect = Effect::of(&request.op);
        let extent = effect.extent();
        if effect != Effect::Flushes && extent.start == extent.end {
            // The protocol leaves open what a request for nothing means.
            let (id, result) = (request.id, Ok(Vec::new()));
            return (self.complete)(DiskCompletion::new(id, result));
        }
        let ticket = self.order.submit(effect, commit);
        if self.pending.is_empty() {
            self.next_look = Instant::now() + LOOK_INTERVAL;
        }
        self.pending.insert(
            ticket,
            OpenRequest {
                request: Arc::new(request),
                due_since: None,
            },
        );
    }

    // The connection.

    fn up(&mut self, up: Up) {
        self.forget_line();
        if self.halted || up.target != self.link.target() {
            // It is opened again as whom it should be.
            return up.requests.disconnect();
        }
        self.news.is_back(&up.target);
        if up.boot != self.boot {
            self.boot = up.boot;
            self.own_flush = OwnFlushes::default();
        }
        let was_lost = self.unflushed.is_lost();
        let again = self.unflushed.connected(up.boot);
        if again > 0 {
            log::info!(
                "{}: making {again} changes again that were not flushed",
                up.target
            );
        }
        if self.unflushed.is_lost() && !was_lost {
            log::error!(
                "{}: its server started anew, and may have lost changes that this host does not \
                 know: the guest's next flush fails",
                up.target
            );
        }
        self.line = Some(Line {
            generation: up.generation,
            requests: up.requests,
            flags: up.export.flags,
            max_payload: up.export.blocks.max_payload,
            transfers: BTreeMap::new(),
        });
    }

    /// Ends the connection, if there is one, of a server that is well.
    fn take_leave(&mut self) {
        if let Some(line) = self.line.take() {
            line.requests.disconnect();
        }
        self.forget_line();
    }

    /// Ends the connection, if there is one.
    fn hang_up(&mut self) {
        self.line = None;
        self.forget_line();
    }

    /// Whatever was under way is not known any more.
    fn forget_line(&mut self) {
        self.order.put_all_back();
    }

    /// The server does not let this host write, which may mean that another one runs the guest.
    fn notify_refused(&self, reason: &str) {
        if let Some(writer) = self.link.target().writer {
            self.notice.tell(WriterRefused {
                epoch: writer.epoch,
                reason: reason.to_owned(),
            });
        }
    }

    /// Tells people of a server that has the connection and does not answer, and when it does again.
    fn look_for_silence(&mut self, now: Instant) {
        let Some(line) = &self.line else { return };
        let silent = line
            .waits_since()
            .filter(|&since| now.saturating_duration_since(since) >= self.told_after);
        match silent {
            Some(since) => self
                .news
                .is_silent(&self.link.target(), since, self.told_after),
            None if self.news.is_out_of_reach() => self.news.is_back(&self.link.target()),
            None => {}
        }
    }

    /// The disk server is out of reach.
    fn lost(&mut self, error: &anyhow::Error) {
        if !self.halted {
            self.news.is_lost(error);
        }
    }

    // The log.

    fn look_at_log(&mut self) {
        let Some((log, _)) = &self.log else { return };
        if self.halted {
            return;
        }
        match log.now() {
            Reached::UpTo {
                session,
                committed,
                executed,
                epoch,
            } => {
                self.go_to(epoch);
                if self.session.replace(session) != Some(session) {
                    self.order.together(self.backup_reads && executed.is_some());
                    self.tickets.clear();
                    // Another backup, which knows nothing.
                    self.backup_view = BackupView::default();
                }
                self.order.committed(committed);
                self.order.executed(executed.unwrap_or_default());
            }
            Reached::Alone { epoch } => {
                self.session = None;
                self.order.alone();
                self.tickets.clear();
                self.go_to(epoch);
            }
            Reached::Never => {
                self.halted = true;
                self.take_leave();
            }
        }
    }

    /// This host runs the guest in `epoch` now, and is its writer when it connects the next time: the
    /// connection that it has serves for all epochs that a host holds one after the other.
    fn go_to(&mut self, epoch: Option<u64>) {
        let target = self.link.target();
        if let (Some(epoch), Some(writer)) = (epoch, &target.writer)
            && epoch != writer.epoch
        {
            let vm = writer.vm.clone();
            self.link.retarget(target.in_epoch(&vm, epoch));
        }
    }

    /// Says what requests wait for. `true` if some of it has come already.
    fn want(&self) -> bool {
        let Some((log, watch)) = &self.log else {
            return false;
        };
        if self.session.is_none() || self.halted {
            // Until that changes, of which the watch tells.
            return false;
        }
        let (commit, execution) = (self.order.wants_commit(), self.order.wants_executed());
        watch.want(commit, execution);
        match log.now() {
            Reached::UpTo {
                session,
                committed,
                executed,
                ..
            } => {
                self.session != Some(session)
                    || commit.is_some_and(|lsn| lsn <= committed)
                    || execution.is_some_and(|lsn| executed >= Some(lsn))
            }
            Reached::Alone { .. } | Reached::Never => true,
        }
    }

    /// Tells the backup what it cannot know by itself.
    fn tell_backup(&mut self) {
        if self.is_followed() {
            for notice in self.backup_view.news(&self.unflushed).into_iter().flatten() {
                (self.complete)(notice.completion());
            }
        }
    }

    /// Tells the backup of changes that need not be kept any more.
    fn log_notice(&self, notice: DiskNotice) {
        if self.is_followed() {
            (self.complete)(notice.completion());
        }
    }

    fn is_followed(&self) -> bool {
        self.session.is_some() && !self.halted
    }

    /// Gives the guest its completion.
    fn finish(&mut self, ticket: Ticket, result: Result<Vec<u8>, DiskError>) {
        let Some(OpenRequest { request, .. }) = self.pending.remove(&ticket) else {
            return;
        };
        match (&request.op, &result) {
            (DiskOp::Read { .. }, Ok(data)) => self.counters.read(data.len()),
            (DiskOp::Write { data, .. }, Ok(_)) => self.counters.written(data.len()),
            (op, Err(error)) => {
                if let Some(others) = self.complaints.admit(Instant::now()) {
                    log::error!(
                        "{}: {} failed ({error:?}), request {} of the guest{others}",
                        self.link.target(),
                        Told(op),
                        request.id
                    );
                }
            }
            _ => {}
        }
        // Before the guest can see it: its log entry may come at once.
        self.order.answered(ticket);
        let id = request.id;
        if result.is_err() {
            // The error is in the log: the backup reads nothing.
            self.order.let_go_of(ticket);
        }
        let held = self.order.holds(ticket);
        if held {
            self.tickets.insert(id, ticket);
        }
        (self.complete)(DiskCompletion { id, result, held });
    }

    // Time.

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.next_look = now + LOOK_INTERVAL;
        self.look_for_silence(now);
        let mut expired = Vec::new();
        for ticket in self.order.due() {
            let Some(pending) = self.pending.get_mut(&ticket) else {
                continue;
            };
            let since = *pending.due_since.get_or_insert(now);
            if now.duration_since(since) >= self.timeout {
                expired.push(ticket);
            }
        }
        self.order.resume();
        if expired.is_empty() || self.halted {
            return;
        }
        log::error!(
            "{} requests of the guest's disk failed: {} did not do them within {} s",
            expired.len(),
            self.link.target(),
            self.timeout.as_secs()
        );
        // They must not be done after all, behind the guest's back: a new connection ends the right
        // of this one to write.
        self.hang_up();
        for ticket in expired {
            self.finish(ticket, Err(DiskError::Io));
        }
    }
}
