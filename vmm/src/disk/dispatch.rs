//! The disk's thread: sends what the [`Scheduler`] says, tells it what happens, and people what they want
//! to know.

mod line;
mod news;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use disk_server::nbd::client::ConnectError;
use disk_server::nbd::protocol::ReplyType;

use self::line::Line;
use self::news::News;
use super::complaints::Complaints;
use super::counters::DiskCounters;
use super::inbox::{Inbox, Message};
use super::link::{Link, LinkError, LinkEvent, Up};
use super::progress::{LogProgress, ProgressWatch};
use super::request::Told;
use super::scheduler::{Effect, Incident, Scheduler};
use super::serving::{DiskSettings, Serving};
use super::{DiskCompletion, DiskOp, DiskRequest, RefusalNotice, WriterRefused};
use crate::events::Events;

/// How exact the time limit of a request is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The disk's thread.
pub(super) struct Dispatcher {
    link: Link,
    line: Option<Line>,
    log: Option<(Arc<dyn LogProgress>, ProgressWatch)>,
    scheduler: Scheduler,
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
        let epoch = link.target().writer.map(|writer| writer.epoch);
        let scheduler = Scheduler::new(
            epoch,
            serving.unflushed,
            serving.backup_reads,
            settings.timeout,
        );
        Self {
            link,
            line: None,
            log,
            scheduler,
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
            let looks = !self.scheduler.is_idle();
            let first = inbox.next(looks.then_some(self.next_look));
            // What has come meanwhile belongs into the same batch of commands.
            for message in first.into_iter().chain(inbox.rest()) {
                match message {
                    Message::Stop => return self.stop(),
                    other => self.take(other),
                }
                self.perform();
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
        }
    }

    fn stop(self) {
        if let Some(line) = self.line {
            line.requests.disconnect();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit(request, commit) => {
                if self.scheduler.is_idle() {
                    self.next_look = Instant::now() + LOOK_INTERVAL;
                }
                self.scheduler.submit(request, commit);
            }
            Message::Logged(id, shared) => {
                if self.scheduler.logged(id, shared) && shared.is_some() {
                    self.counters.shared();
                }
            }
            Message::Link(LinkEvent::Up(up)) => self.up(*up),
            Message::Link(LinkEvent::Reply(generation, reply)) => {
                if let Some(line) = self.line.as_mut().filter(|it| it.generation == generation)
                    && let Some((number, result)) = line.reply(reply)
                {
                    self.scheduler.answered(number, result, Instant::now());
                    self.perform();
                }
                self.look_for_silence(Instant::now());
            }
            Message::Link(LinkEvent::Down(generation, error)) => {
                if self.line.as_ref().map(|line| line.generation) == Some(generation) {
                    self.line = None;
                    self.scheduler.disconnected();
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

    /// Does what follows from what has happened.
    fn perform(&mut self) {
        while let Some(effect) = self.scheduler.effect() {
            match effect {
                Effect::Complete(completion, request) => {
                    if let Some(request) = request {
                        self.note(&request, &completion);
                    }
                    (self.complete)(completion);
                }
                Effect::Disconnect => {
                    if let Some(line) = self.line.take() {
                        line.requests.disconnect();
                    }
                }
                Effect::HangUp => self.line = None,
                Effect::Reopen(epoch) => {
                    let target = self.link.target();
                    if let Some(writer) = &target.writer {
                        let target = target.in_epoch(&writer.vm, epoch);
                        self.link.retarget(target);
                    }
                }
                Effect::Tell(incident) => self.tell(incident),
            }
        }
    }

    fn note(&mut self, request: &DiskRequest, completion: &DiskCompletion) {
        match (&request.op, &completion.result) {
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
    }

    fn tell(&mut self, incident: Incident) {
        let target = self.link.target();
        match incident {
            Incident::MakesAgain(changes) => {
                log::info!("{target}: making {changes} changes again that were not flushed");
            }
            Incident::MayHaveLost => log::error!(
                "{target}: its server started anew, and may have lost changes that this host does not \
                 know: the guest's next flush fails"
            ),
            Incident::Full => self.news.is_full(&target, self.timeout),
            Incident::HasRoom => self.news.has_room(&target),
            Incident::Refused => {
                self.news.is_refused(&target);
                self.notify_refused(&format!("{target}: a change was not permitted"));
            }
            Incident::Writes => self.news.writes(),
            Incident::CannotFlush(pause) => log::error!(
                "{target}: its server cannot flush what the guest wrote; it is tried again, but not \
                 within {} s",
                pause.as_secs()
            ),
            Incident::GivesUp => log::error!(
                "{target}: its server cannot flush what the guest wrote, and no more of it can be kept: \
                 the guest's next flush fails"
            ),
            Incident::LostChange => {
                if let Some(others) = self.complaints.admit(Instant::now()) {
                    log::error!(
                        "{target} lost a change that it had taken, and does not take it again: the \
                         guest's next flush fails{others}"
                    );
                }
            }
            Incident::TimedOut(requests) => log::error!(
                "{requests} requests of the guest's disk failed: {target} did not do them within {} s",
                self.timeout.as_secs()
            ),
        }
    }

    // The connection.

    fn up(&mut self, up: Up) {
        let epoch = up.target.writer.as_ref().map(|writer| writer.epoch);
        self.line = Some(Line::new(up.generation, up.requests, &up.export));
        self.scheduler.connected(epoch, up.boot);
        self.perform();
        if self.line.is_some() {
            self.news.is_back(&up.target);
        }
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
        if !self.scheduler.is_halted() {
            self.news.is_lost(error);
        }
    }

    // The log.

    fn look_at_log(&mut self) {
        if let Some((log, _)) = &self.log {
            self.scheduler.reached(log.now());
            self.perform();
        }
    }

    /// Says what requests wait for. `true` if some of it has come already.
    fn want(&self) -> bool {
        let Some((log, watch)) = &self.log else {
            return false;
        };
        let Some((commit, execution)) = self.scheduler.wants() else {
            // Until that changes, of which the watch tells.
            return false;
        };
        watch.want(commit, execution);
        self.scheduler.awaits(log.now())
    }

    // Time.

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.next_look = now + LOOK_INTERVAL;
        self.look_for_silence(now);
        self.scheduler.look(now);
        self.perform();
    }
}
