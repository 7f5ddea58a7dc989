//! Which requests of a guest go to the disk server, which go again, and what answers mean: a machine
//! without connections, threads and clocks. The disk's thread (`dispatch.rs`) drives it, and so does the
//! simulator.
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

mod answers;
mod backup_view;
mod own_flushes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::entry::Lsn;

use self::backup_view::BackupView;
use self::own_flushes::OwnFlushes;
use super::followed::DiskNotice;
use super::order::{self, Order, Ticket};
use super::progress::Reached;
use super::unflushed::{AnswerNumber, Unflushed};
use super::{DiskCompletion, DiskError, DiskOp, DiskRequest};

/// What is sent to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A request of the guest.
    Guest(Arc<DiskRequest>),
    /// A change that was answered, and may be lost.
    Again(Arc<DiskRequest>),
    /// A flush that the guest has not asked for.
    OwnFlush,
}

impl Command {
    /// What the server has to do.
    #[must_use]
    pub fn op(&self) -> &DiskOp {
        match self {
            Self::Guest(request) | Self::Again(request) => &request.op,
            Self::OwnFlush => &DiskOp::Flush,
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// The guest gets this completion, which is of this request; of none where only the log has it, for
    /// the backup.
    Complete(DiskCompletion, Option<Arc<DiskRequest>>),
    /// The connection is of no use any more, though its server is well.
    Disconnect,
    /// The connection is given up.
    HangUp,
    /// From the next connection on this host is the writer of this epoch.
    Reopen(u64),
    /// People want to know this.
    Tell(Incident),
}

/// What people want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// So many changes are made again that were not flushed.
    MakesAgain(usize),
    /// The server may have lost changes that this host does not know.
    MayHaveLost,
    /// There is no room for a change.
    Full,
    /// There is again.
    HasRoom,
    /// The server does not let this connection write.
    Refused,
    /// It did.
    Writes,
    /// A flush failed that the guest had not asked for. The next one is so much later.
    CannotFlush(Duration),
    /// No flush succeeds, and no more can be kept: it is given up.
    GivesUp,
    /// A change was lost, and the server does not take it again.
    LostChange,
    /// So many requests took too long, and failed.
    TimedOut(usize),
}

/// A request of the guest that was not completed, or a read that keeps its place.
#[derive(Debug)]
struct OpenRequest {
    request: Arc<DiskRequest>,
    /// Since when nobody but the server is waited for.
    due_since: Option<Instant>,
}

/// What a command at the server is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Guest(Ticket),
    Again(AnswerNumber),
    OwnFlush,
}

/// The requests of one guest's disk, and what its server has of them.
#[derive(Debug)]
pub struct Scheduler {
    /// The epoch in which this host runs the guest, if it is one of a pair.
    epoch: Option<u64>,
    /// The session for whose backup requests wait, if there is one.
    session: Option<Lsn>,
    /// A backup that executes the log reads the disk itself.
    backup_reads: bool,
    /// This host lost: nothing goes out.
    halted: bool,
    is_connected: bool,
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
    /// Commands on the connection.
    out: BTreeMap<u64, Purpose>,
    /// The number of the last command.
    number: u64,
    timeout: Duration,
    effects: VecDeque<Effect>,
}

impl Scheduler {
    /// Of a host that runs the guest in `epoch`, if it is one of a pair. `unflushed` is what the server
    /// may still lose of what an earlier host did. A request that the server does not do within
    /// `timeout` fails.
    #[must_use]
    pub fn new(
        epoch: Option<u64>,
        unflushed: Unflushed,
        backup_reads: bool,
        timeout: Duration,
    ) -> Self {
        Self {
            epoch,
            session: None,
            backup_reads,
            halted: false,
            is_connected: false,
            order: Order::default(),
            unflushed,
            own_flush: OwnFlushes::default(),
            backup_view: BackupView::default(),
            boot: None,
            pending: BTreeMap::new(),
            tickets: BTreeMap::new(),
            out: BTreeMap::new(),
            number: 0,
            timeout,
            effects: VecDeque::new(),
        }
    }

    /// Whether no request is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether nothing goes out any more, because this host lost.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether the server has lost a change, of which the guest's next flush will tell.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.unflushed.is_lost()
    }

    /// What is to be done next, after anything that happened: until there is no more.
    pub fn effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() && self.is_followed() {
            for notice in self.backup_view.news(&self.unflushed).into_iter().flatten() {
                self.log_notice(notice);
            }
        }
        self.effects.pop_front()
    }

    fn tell(&mut self, incident: Incident) {
        self.effects.push_back(Effect::Tell(incident));
    }

    /// Takes a request that may go out when `commit` is committed.
    pub fn submit(&mut self, request: DiskRequest, commit: Option<Lsn>) {
        let request = Arc::new(request);
        let effect = order::Effect::of(&request.op);
        let extent = effect.extent();
        if effect != order::Effect::Flushes && extent.start == extent.end {
            // The protocol leaves open what a request for nothing means.
            let completion = DiskCompletion::new(request.id, Ok(Vec::new()));
            self.effects.push_back(Effect::Complete(completion, None));
            return;
        }
        let ticket = self.order.submit(effect, commit);
        let due_since = None;
        self.pending
            .insert(ticket, OpenRequest { request, due_since });
    }

    /// The completion of a read that is held is in the log: at `shared`, if the backup is to read the
    /// disk. Whether this is one.
    pub fn logged(&mut self, id: u64, shared: Option<Lsn>) -> bool {
        let Some(ticket) = self.tickets.remove(&id) else {
            return false;
        };
        match shared {
            Some(lsn) => self.order.logged(ticket, lsn),
            None => self.order.let_go_of(ticket),
        }
        true
    }

    // The connection.

    /// There is a connection, which was opened as the writer of `epoch`, to a server whose start has the
    /// number `boot`.
    pub fn connected(&mut self, epoch: Option<u64>, boot: Option<u64>) {
        self.disconnected();
        if self.halted || epoch != self.epoch {
            // It is opened again as whom it should be.
            self.effects.push_back(Effect::Disconnect);
            return;
        }
        self.is_connected = true;
        if boot != self.boot {
            self.boot = boot;
            self.own_flush = OwnFlushes::default();
        }
        let was_lost = self.unflushed.is_lost();
        let again = self.unflushed.connected(boot);
        if again > 0 {
            self.tell(Incident::MakesAgain(again));
        }
        if self.unflushed.is_lost() && !was_lost {
            self.tell(Incident::MayHaveLost);
        }
    }

    /// The connection is gone: whatever was under way is not known any more.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        self.out.clear();
        self.order.put_all_back();
    }

    /// The connection is of no use any more.
    fn disconnect(&mut self) {
        if self.is_connected {
            self.effects.push_back(Effect::Disconnect);
        }
        self.disconnected();
    }

    /// The next command that goes out, with the number under which it is answered.
    pub fn command(&mut self, now: Instant) -> Option<(u64, Command)> {
        if !self.is_connected {
            return None;
        }
        if let Some((place, request)) = self.unflushed.next_repeat() {
            return Some((self.out(Purpose::Again(place)), Command::Again(request)));
        }
        if self.unflushed.is_repeating() {
            return None;
        }
        if self.unflushed.is_full() && self.own_flush.is_hopeless() {
            self.give_up();
        }
        if self.unflushed.wants_flush() && self.own_flush.may_go_out(now) {
            let number = self.out(Purpose::OwnFlush);
            self.unflushed.flush_sent(number);
            return Some((number, Command::OwnFlush));
        }
        let full = self.unflushed.is_full();
        let fits = |effect: order::Effect| !(full && effect.modifies());
        let ticket = self.order.next(fits)?;
        let request = self.pending.get(&ticket)?.request.clone();
        let number = self.out(Purpose::Guest(ticket));
        if request.op == DiskOp::Flush {
            self.unflushed.flush_sent(number);
        }
        Some((number, Command::Guest(request)))
    }

    fn out(&mut self, purpose: Purpose) -> u64 {
        self.number += 1;
        self.out.insert(self.number, purpose);
        self.number
    }

    // The log.

    /// The log has come so far.
    pub fn reached(&mut self, reached: Reached) {
        if self.halted {
            return;
        }
        match reached {
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
                self.disconnect();
            }
        }
    }

    /// This host runs the guest in `epoch` now, and is its writer when it connects the next time: the
    /// connection that it has serves for all epochs that a host holds one after the other.
    fn go_to(&mut self, epoch: Option<u64>) {
        if let (Some(before), Some(epoch)) = (&mut self.epoch, epoch)
            && *before != epoch
        {
            *before = epoch;
            self.effects.push_back(Effect::Reopen(epoch));
        }
    }

    /// The oldest entries that requests wait for: for their commit, and for their execution. `None` if
    /// it is not for entries that they wait.
    #[must_use]
    pub fn wants(&self) -> Option<(Option<Lsn>, Option<Lsn>)> {
        (self.session.is_some() && !self.halted)
            .then(|| (self.order.wants_commit(), self.order.wants_executed()))
    }

    /// Whether what is known of the log by now is news for what is waited for.
    #[must_use]
    pub fn awaits(&self, reached: Reached) -> bool {
        let Some((commit, execution)) = self.wants() else {
            return false;
        };
        match reached {
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

    /// Tells the backup of changes that need not be kept any more.
    fn log_notice(&mut self, notice: DiskNotice) {
        if self.is_followed() {
            self.effects
                .push_back(Effect::Complete(notice.completion(), None));
        }
    }

    fn is_followed(&self) -> bool {
        self.session.is_some() && !self.halted
    }

    // Time.

    /// Looks which requests have taken too long.
    pub fn look(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for ticket in self.order.due() {
            let Some(pending) = self.pending.get_mut(&ticket) else {
                continue;
            };
            let since = *pending.due_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.timeout {
                expired.push(ticket);
            }
        }
        self.order.resume();
        if expired.is_empty() || self.halted {
            return;
        }
        self.tell(Incident::TimedOut(expired.len()));
        // They must not be done after all, behind the guest's back: a new connection ends the right
        // of this one to write.
        self.effects.push_back(Effect::HangUp);
        self.disconnected();
        for ticket in expired {
            self.finish(ticket, Err(DiskError::Io));
        }
    }
}
