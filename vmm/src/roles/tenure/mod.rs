//! A host's time with its guest, as the disk server has it: one owner of the epoch, from the claim
//! or the first word of a primary to the end that is told.
//!
//! All decisions are in [`crate::protocol::epoch`]. Here is the thread that makes its claims, and the handles by which
//! others say what happens and hear what was decided.

mod looks;
#[cfg(test)]
pub(in crate::roles) mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use confinement::Calls;
use crossbeam_channel::{Receiver, Sender, at, never, select};
use disk_server::arbiter::{Claimant, Next};
use logging_channel::{ChannelEvent, LossReason};
use parking_lot::{Condvar, Mutex};

use self::looks::{Answer, Looks};
use super::Halt;
use super::claim::Rights;
use crate::disk::RefusalNotice;
use crate::events::{Event, Events};
use crate::protocol::epoch::{Core, Effect, Input, Task};
use crate::threads;

/// How often the record is read: so often a host that was replaced learns of it, and the connection
/// for a claim stays open.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// For how long the next epoch is left to a backup to which the guest was handed over. It has nothing to replay:
/// what it takes is two round trips to the disk server.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

/// How often is looked meanwhile whether it has won.
const HAND_OVER_LOOKS: Duration = Duration::from_millis(100);

/// How soon the disk server is told again that a backup has joined.
const REPEAT: Duration = Duration::from_millis(500);

/// How long a guest's end waits for the disk server.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// How long an error waits for it.
const ABANDON_PATIENCE: Duration = Duration::from_secs(5);

/// What the other side of a primary is, for messages.
const BACKUP: &str = "backup";

/// The right to run alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Won: this host is the only one that runs the guest, in this epoch.
    Won {
        /// The epoch.
        epoch: u64,
        /// When the peer was found lost.
        lost_at: Instant,
    },
    /// Lost, with the reason for people.
    Lost(String),
}

/// A message to the thread.
#[derive(Debug)]
enum Message {
    Happened(Input),
    /// A backup has come, by this question.
    Joins(Claimant, u64),
    /// A session has begun, whose end is announced there.
    Session(Receiver<ChannelEvent>),
}

#[derive(Debug, Default)]
struct Published {
    /// Of the session that was lost last.
    verdict: Option<Verdict>,
    /// In which the guest runs.
    epoch: u64,
    /// The backup that was admitted last, the epoch to which it belongs, and the question that was heard last.
    admitted: Option<(u64, Claimant, u64)>,
    /// How often it was asked for a backup.
    asked: u64,
    /// The backup of this epoch has taken over, which the disk server knows.
    acknowledged: Option<u64>,
    /// Nothing is left to ask.
    over: bool,
}

/// What was decided of this host's right, and where others say what happens. A handle.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    published: Arc<(Mutex<Published>, Condvar)>,
    messages: Sender<Message>,
}

impl Standing {
    fn tell(&self, input: Input) {
        // Fails when there is nothing to decide any more.
        let _ = self.messages.send(Message::Happened(input));
    }

    /// This host's guest is as it should be: it may go on alone.
    pub(super) fn ready(&self) {
        self.tell(Input::Ready);
    }

    /// This host's guest is not as it should be: it must not go on alone.
    pub(super) fn refuse(&self) {
        self.tell(Input::Unfit);
    }

    /// The guest has ended; what is left is to tell the other host.
    pub(super) fn guest_ended(&self) {
        self.tell(Input::GuestEnded);
    }

    /// The session is over. Who ends it says so here before the end of the guest.
    pub(super) fn session_over(&self, reason: &LossReason) {
        self.tell(over(reason));
    }

    /// The backup of this view is to go on with the guest: its session is about to be ended.
    pub(super) fn hand_over(&self, view: u64) {
        self.tell(Input::HandOver(view));
    }

    /// There is a reason to look whether this host's epoch is over.
    pub(super) fn doubt(&self) {
        self.tell(Input::Doubt);
    }

    /// Refusals of the disk are a reason to look whether this host's epoch is over.
    pub(super) fn doubted_by_refusals(&self) -> RefusalNotice {
        let standing = self.clone();
        RefusalNotice::new(move |_| standing.tell(Input::Doubt))
    }

    /// Has the disk server give this host the next epoch, with a backup that has come: which it is. `None`
    /// if that is not known within `timeout`; a later answer holds for nobody.
    pub(super) fn admit(&self, backup: Claimant, timeout: Duration) -> Option<u64> {
        let mut question = 0;
        self.publish(|published| {
            published.asked += 1;
            question = published.asked;
        });
        // Fails when there is nothing to decide any more.
        let _ = (self.messages).send(Message::Joins(backup.clone(), question));
        // An answer to an earlier question may be followed by one to this, in a later epoch.
        let admitted = |it: &Published| {
            let (epoch, who, heard) = it.admitted.as_ref()?;
            (*who == backup && *heard == question).then_some(*epoch)
        };
        let (published, changed) = &*self.published;
        let mut guard = published.lock();
        let waits = |it: &mut Published| admitted(it).is_none() && !it.over;
        changed.wait_while_for(&mut guard, waits, timeout);
        admitted(&guard)
    }

    /// The epoch in which the guest runs.
    pub(super) fn epoch(&self) -> u64 {
        self.published.0.lock().epoch
    }

    /// The backup of this host's epoch has taken over the guest's state: the disk server is to know.
    pub(super) fn taken_over(&self) {
        self.tell(Input::TakenOver);
    }

    /// Whether it knows that of the backup of `epoch`; waits for it for up to `timeout`.
    pub(super) fn is_acknowledged(&self, epoch: u64, timeout: Duration) -> bool {
        let (published, changed) = &*self.published;
        let mut guard = published.lock();
        // Also where nothing is left to ask: who waits looks again, and is not to do that all the time.
        let waits = |it: &mut Published| it.acknowledged != Some(epoch);
        changed.wait_while_for(&mut guard, waits, timeout);
        guard.acknowledged == Some(epoch)
    }

    /// This host's guest is protected by a session, whose end is announced there: there is no verdict
    /// until it is lost. Said before the other host may hear of it.
    pub(super) fn pair_with(&self, session: Receiver<ChannelEvent>) {
        self.publish(|published| {
            if let Some(Verdict::Won { .. }) = published.verdict {
                published.verdict = None;
            }
        });
        // Fails when there is nothing to decide any more.
        let _ = self.messages.send(Message::Session(session));
    }

    /// The verdict, if there is one within `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Verdict> {
        self.wait_until(timeout, |published| published.verdict.is_some())
            .0
    }

    /// The verdict, and whether nothing is left to ask.
    fn wait_until(
        &self,
        timeout: Duration,
        condition: impl Fn(&Published) -> bool,
    ) -> (Option<Verdict>, bool) {
        let (published, changed) = &*self.published;
        let mut guard = published.lock();
        changed.wait_while_for(&mut guard, |published| !condition(published), timeout);
        (guard.verdict.clone(), guard.over)
    }

    fn publish(&self, change: impl FnOnce(&mut Published)) {
        let (published, changed) = &*self.published;
        change(&mut published.lock());
        changed.notify_all();
    }
}

fn over(reason: &LossReason) -> Input {
    match reason {
        LossReason::Orderly => Input::LogEnded,
        reason => Input::PeerLost(reason.to_string()),
    }
}

/// The owner of this host's epoch. Dropped without [`Tenure::end`], it gives the epoch back if
/// nobody else can go on with the guest.
pub(super) struct Tenure {
    standing: Standing,
    ended: bool,
}

impl Tenure {
    /// Of a primary, which has won `epoch`.
    pub(super) fn hold(rights: Arc<Rights>, epoch: u64, events: &Events, halt: Halt) -> Self {
        let core = Core::holding(rights.claimant().clone(), epoch);
        Self::start(rights, core, BACKUP, LOOK_INTERVAL, events, halt)
    }

    /// Of the backup of a primary that won `epoch` as `holder`.
    pub(super) fn follow(
        rights: Arc<Rights>,
        (epoch, holder): (u64, Claimant),
        session: Receiver<ChannelEvent>,
        events: &Events,
        halt: Halt,
    ) -> Self {
        let core = Core::following(rights.claimant().clone(), epoch, holder);
        let tenure = Self::start(rights, core, "primary", LOOK_INTERVAL, events, halt);
        tenure.standing.pair_with(session);
        tenure
    }

    fn start(
        rights: Arc<Rights>,
        core: Core,
        peer: &'static str,
        look_interval: Duration,
        events: &Events,
        halt: Halt,
    ) -> Self {
        let (messages, inbox) = crossbeam_channel::unbounded();
        let published = Published {
            epoch: core.epoch(),
            ..Published::default()
        };
        let standing = Standing {
            published: Arc::new((Mutex::new(published), Condvar::new())),
            messages,
        };
        let keeper = Keeper {
            core,
            looks: Looks::start(rights.clone(), look_interval),
            rights,
            peer,
            events: events.clone(),
            halt: Some(halt),
            standing: standing.clone(),
            session: never(),
            lost_at: None,
            left_until: None,
            question: 0,
        };
        let keep = move || keeper.run(&inbox);
        threads::start("epoch", &[Calls::Connect, Calls::Files], keep)
            .expect("a thread can be started");
        Self {
            standing,
            ended: false,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// The guest ended in order: tells the disk server.
    pub(super) fn end(mut self) {
        self.close(Input::End, END_PATIENCE);
    }

    fn close(&mut self, how: Input, patience: Duration) {
        self.ended = true;
        self.standing.tell(how);
        let (_, over) = self
            .standing
            .wait_until(patience, |published| published.over);
        if !over {
            log::warn!(
                "could not tell the disk server that the guest ended: if it has this host as the \
                 holder still, the next start needs --force"
            );
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if !self.ended {
            self.close(Input::Abandon, ABANDON_PATIENCE);
        }
    }
}

/// The thread that asks the disk server.
struct Keeper {
    core: Core,
    looks: Looks,
    rights: Arc<Rights>,
    /// What the other side is, for messages.
    peer: &'static str,
    events: Events,
    halt: Option<Halt>,
    standing: Standing,
    /// Where the loss of the other side is announced.
    session: Receiver<ChannelEvent>,
    lost_at: Option<Instant>,
    /// Until when the next epoch is left to the backup.
    left_until: Option<Instant>,
    /// The last question of a backup that was heard.
    question: u64,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            // What is known before what is asked.
            while let Ok(message) = inbox.try_recv() {
                self.hear(message);
            }
            match self.core.task() {
                Task::Nothing => break,
                Task::Claim { epoch, next } => {
                    self.looks.forget();
                    let held = (epoch, self.core.holder().clone());
                    let waits = |reason: &str| self.waits(&next, reason);
                    let claim = self.rights.claim((held.0, &held.1), &next, waits);
                    self.take(Input::Claimed(claim));
                }
                Task::Acknowledge(epoch) => {
                    self.looks.forget();
                    match self.rights.acknowledge(epoch) {
                        Ok(record) => self.take(Input::Acknowledged(record)),
                        Err(error) => {
                            let error = anyhow::Error::new(error);
                            log::warn!(
                                "the disk server has to hear that a backup has joined: {error:#}"
                            );
                        }
                    }
                    if let Task::Acknowledge(_) = self.core.task() {
                        let message = inbox.recv_timeout(REPEAT);
                        message.into_iter().for_each(|message| self.hear(message));
                    }
                }
                Task::Watch { doubt } => {
                    self.looks.begin_if_due(doubt);
                    self.wait(inbox, doubt);
                }
            }
        }
        self.standing.publish(|published| published.over = true);
    }

    fn wait(&mut self, inbox: &Receiver<Message>, doubt: bool) {
        select! {
            // The inbox ends with its last handle, and that with this thread.
            recv(inbox) -> message => message.into_iter().for_each(|message| self.hear(message)),
            recv(self.session) -> event => {
                self.session = never();
                // Whoever ends a session has said before why.
                while let Ok(message) = inbox.try_recv() {
                    self.hear(message);
                }
                if let Ok(ChannelEvent::PeerLost(reason)) = event {
                    self.take(over(&reason));
                }
            }
            recv(self.looks.answer()) -> answer => self.looked(answer.expect("it is sent"), doubt),
            recv(self.looks.due()) -> _ => {}
            recv(self.left_due()) -> _ => self.look_whether_it_won(),
        }
    }

    fn left_due(&self) -> Receiver<Instant> {
        match self.left_until {
            Some(until) => at(until.min(Instant::now() + HAND_OVER_LOOKS)),
            None => never(),
        }
    }

    fn look_whether_it_won(&mut self) {
        if self
            .left_until
            .take_if(|until| *until <= Instant::now())
            .is_some()
        {
            return self.take(Input::Overdue);
        }
        self.hear(Message::Happened(Input::Doubt));
    }

    fn looked(&mut self, answer: Answer, doubt: bool) {
        let doubted = self.looks.end(&answer, doubt);
        if let Ok(record) = answer {
            self.take(Input::Looked(record));
        }
        if doubted {
            self.take(Input::Doubt);
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Happened(input) => {
                if input == Input::Doubt {
                    self.looks.doubt();
                }
                self.take(input);
            }
            Message::Joins(backup, question) => {
                self.question = question;
                self.take(Input::Joins(backup));
            }
            Message::Session(session) => {
                self.session = session;
                self.take(Input::Paired);
            }
        }
    }

    fn take(&mut self, input: Input) {
        match self.core.take(input) {
            None => {}
            Some(Effect::PeerLost(reason)) => {
                self.lost_at = Some(Instant::now());
                log::warn!("the {} is lost: {reason}", self.peer);
                self.events.emit(&Event::PeerLost { reason });
            }
            Some(Effect::Admitted(epoch, backup)) => self.standing.publish(|published| {
                published.epoch = epoch;
                published.admitted = Some((epoch, backup, self.question));
            }),
            Some(Effect::Acknowledged(epoch)) => {
                self.standing
                    .publish(|published| published.acknowledged = Some(epoch));
            }
            Some(Effect::Alone(epoch)) => {
                let lost_at = self.lost_at.unwrap_or_else(Instant::now);
                let verdict = Verdict::Won { epoch, lost_at };
                self.standing.publish(|published| {
                    published.epoch = epoch;
                    published.verdict = Some(verdict);
                });
                // A backup tells it when its guest's thread is there. The next host that it loses is a
                // backup of its own.
                if std::mem::replace(&mut self.peer, BACKUP) == BACKUP {
                    log::warn!("running alone, unprotected, in epoch {epoch}");
                    self.events.emit(&Event::Live {
                        epoch,
                        after_loss_ms: lost_at.elapsed().as_millis() as u64,
                        outage_ms: 0,
                        resent_frames: 0,
                    });
                }
            }
            Some(Effect::Leaves) => self.left_until = Some(Instant::now() + HAND_OVER_PATIENCE),
            Some(Effect::HandedOver(epoch, to)) => {
                let to = to.to_string();
                let reason = format!("it was handed over to {to}, which runs it in epoch {epoch}");
                self.halt(&reason, &Event::HandedOver { epoch, to });
            }
            Some(Effect::Unclear(reason)) => log::warn!("{reason}"),
            Some(Effect::Halt(reason)) => {
                let lost = Event::Lost {
                    reason: reason.clone(),
                };
                self.halt(&reason, &lost);
            }
        }
    }

    fn halt(&mut self, reason: &str, event: &Event) {
        // First: whoever hears the verdict may end the process.
        self.events.emit(event);
        let verdict = Verdict::Lost(reason.to_owned());
        self.standing
            .publish(|published| published.verdict = Some(verdict));
        if let Some(halt) = self.halt.take() {
            halt(reason);
        }
    }

    fn waits(&self, next: &Next, reason: &str) {
        match next {
            Next::With(_) => log::warn!("a backup has to wait for the disk server: {reason}"),
            Next::Stopped => {
                log::warn!("the disk server has to hear of the guest's end: {reason}");
            }
            Next::Start | Next::Alone => {}
        }
        if *next != Next::Alone {
            return;
        }
        log::warn!("waiting for the disk server before this host may go on: {reason}");
        self.events.emit(&Event::Waiting {
            reason: reason.to_owned(),
        });
    }
}
