//! A process that follows a primary.

use std::collections::VecDeque;
use std::time::Duration;

use ftvm_vmm::disk::followed::{DiskNotice, Followed};
use ftvm_vmm::protocol::follower::{AtEnd, Follower, WhileCold};
use ftvm_vmm::protocol::outputs::UnreleasedOutputs;
use logging_channel::LossReason;
use logging_channel::control::Control;
use logging_channel::entry::Lsn;
use logging_channel::heartbeat::{Heartbeat, Role};
use logging_channel::protocol::{BackupEnd, FromPrimary, Pulse};

use crate::defect::Defect;
use crate::env::Env;
use crate::event::Timer;
use crate::guest::{Entry, Kept, Logged, MemoryPart, Replay, Reply};
use crate::message::{Item, ProcessId};
use crate::rule::Rule;

/// How soon all is read that the socket of a lost session holds.
const DRAIN: Duration = Duration::from_millis(4);

/// A cold backup asks for the state anew after one in so many looks,
const RENEWS: u32 = 12;

/// and its memory comes up to so much later than the log.
const MEMORY_LATE: Duration = Duration::from_millis(30);

/// What follows a primary.
#[derive(Debug)]
pub(crate) struct Following {
    of: ProcessId,
    host: usize,
    pub(crate) line: usize,
    number: u64,
    primary: ProcessId,
    end: BackupEnd,
    pulse: Pulse,
    queue: VecDeque<(Lsn, Logged)>,
    executed: Lsn,
    follower: Follower,
    /// A transfer of the whole state is under way.
    receives: bool,
    /// What came of it is damaged.
    spoiled: bool,
    /// The last one has not been taken over.
    lacks_state: bool,
    pub(crate) replay: Replay,
    /// What the disk server may lose.
    pub(crate) followed: Followed,
    /// What a cold backup was told of it beside the guest's requests.
    notices: Vec<(u64, bool)>,
    /// Outputs that the primary may not have let out.
    unreleased: UnreleasedOutputs<Reply>,
    released: Lsn,
    differed: Option<Lsn>,
    /// It was made to differ.
    pub(crate) flipped: bool,
    /// The entry was executed that says so.
    pub(crate) protected: bool,
    lost: Option<LossReason>,
    /// Nothing more is read.
    pub(crate) ended: bool,
    stepping: bool,
    /// It only keeps the log.
    cold: bool,
    /// It has asked for the state anew.
    asked: bool,
    kept: Kept,
    /// Memory of that on its way, and when it is there.
    memory: VecDeque<(Duration, MemoryPart)>,
    /// The latest plan of a report: those before do not count.
    plan: u64,
    over: bool,
}

/// What follows from something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    PeerLost(String),
    /// All was replayed.
    AtEnd(AtEnd),
}

impl Following {
    pub(crate) fn new(of: ProcessId, host: usize, line: usize, number: u64, env: &mut Env) -> Self {
        let now = env.instant(host);
        let timeout = env.settings.heartbeat_timeout;
        env.timer(of, Duration::ZERO, Timer::Beat(number));
        Self {
            of,
            host,
            line,
            number,
            primary: env.network.lines[line].ends[1],
            end: BackupEnd::default(),
            pulse: Pulse::new(Role::Backup, number, timeout, now),
            queue: VecDeque::new(),
            executed: Lsn(0),
            follower: Follower::default(),
            receives: false,
            spoiled: false,
            lacks_state: false,
            replay: Replay::default(),
            followed: Followed::new(None),
            notices: Vec::new(),
            unreleased: UnreleasedOutputs::default(),
            released: Lsn(0),
            differed: None,
            flipped: false,
            protected: false,
            lost: None,
            ended: false,
            stepping: false,
            cold: env.cold,
            asked: false,
            kept: Kept::default(),
            memory: VecDeque::new(),
            plan: 0,
            over: false,
        }
    }

    /// Something comes over the connection.
    pub(crate) fn hear(&mut self, item: Item, env: &mut Env) -> Vec<Told> {
        if self.ended && !env.has(Defect::AcknowledgementAfterLoss) {
            return Vec::new();
        }
        let now = env.instant(self.host);
        self.pulse.hear_log(now);
        match item {
            Item::Batch {
                view,
                first,
                entries,
            } => {
                let awaited = entries.iter().any(|it| it.entry.payload().is_awaited());
                let lsns = (first.0..).map(Lsn);
                let last = Lsn(first.0 + entries.len() as u64 - 1);
                let notices = entries.iter().filter_map(|it| match &it.entry {
                    Entry::DiskDone(id, result) => {
                        DiskNotice::of(*id, result.is_ok()).map(|_| (*id, result.is_ok()))
                    }
                    _ => None,
                });
                self.notices.extend(notices.filter(|_| self.cold));
                if !self.over {
                    self.queue.extend(lsns.zip(entries));
                }
                self.end.receive(last, awaited, now);
                let session = (self.line, view, [self.primary, self.of]);
                if let Err(what) = env.checks.accepts(session, last) {
                    env.fail(what);
                }
                if self.end.is_due(now) {
                    self.report(env);
                }
                self.plan_report(env);
                self.step_soon(env);
            }
            Item::Memory(part) => {
                let due = env.now + env.jitter(MEMORY_LATE);
                let last = self.memory.back().map_or(due, |(last, _)| *last);
                self.memory.push_back((due.max(last), part));
            }
            Item::Control(message) => match self.end.hear(message) {
                Ok(FromPrimary::Released(lsn)) => self.released = self.released.max(lsn),
                Ok(FromPrimary::Used(_)) => {}
                Ok(FromPrimary::End) => return self.lose(LossReason::Orderly, env),
                Err(what) => {
                    env.fail(format!("a primary broke the protocol: {what}"));
                    return self.lose(LossReason::Protocol(what), env);
                }
            },
            Item::Fin | Item::Reset => {
                let mut told = self.lose(LossReason::Closed, env);
                told.extend(self.drained(env));
                return told;
            }
            Item::Hello | Item::Welcome { .. } | Item::Ready(_) | Item::Begin(_) => {}
        }
        Vec::new()
    }

    pub(crate) fn hear_beat(&mut self, beat: &Heartbeat, env: &Env) {
        if let Some(heard) = self.pulse.hear(beat, env.instant(self.host)) {
            self.released = self.released.max(heard.released);
        }
    }

    pub(crate) fn beat(&mut self, env: &mut Env) -> Vec<Told> {
        if self.lost.is_some() {
            return Vec::new();
        }
        let now = env.instant(self.host);
        let beat = self.pulse.beat(now, Lsn(0), None);
        env.send_beat(self.host, self.primary, beat);
        env.timer(self.of, self.pulse.interval(), Timer::Beat(self.number));
        match self.pulse.tick(now) {
            Some(silence) => self.lose(silence, env),
            None => Vec::new(),
        }
    }

    /// The session is over. What the socket holds is still read.
    fn lose(&mut self, reason: LossReason, env: &mut Env) -> Vec<Told> {
        if self.lost.is_some() {
            return Vec::new();
        }
        let of = self.of;
        env.note(|| format!("{of}: the primary is lost: {reason}"));
        if !env.has(Defect::AcknowledgementAfterLoss) {
            env.close(self.line, 0);
        }
        env.timer(self.of, DRAIN, Timer::Drained);
        let told = reason.to_string();
        self.lost = Some(reason);
        let mut told = vec![Told::PeerLost(told)];
        if env.has(Defect::ClaimBeforeReplay) && self.follower.is_protecting() {
            self.queue.clear();
            told.extend(self.at_end(env));
        }
        told
    }

    pub(crate) fn drained(&mut self, env: &mut Env) -> Vec<Told> {
        self.ended = true;
        self.step_soon(env);
        Vec::new()
    }

    fn report(&mut self, env: &mut Env) {
        let over = self.lost.is_some() && !env.has(Defect::AcknowledgementAfterLoss);
        let report = self.end.report(self.executed, !over);
        if over {
            return;
        }
        if let Some(differed) = self.differed.take() {
            let message = Control::NeedState {
                differed,
                uncounted: false,
            };
            env.send(self.line, 1, Item::Control(message));
        }
        if let Some((received, executed)) = report {
            let message = Control::Acknowledge {
                received,
                executed,
                idle: Duration::ZERO,
            };
            env.send(self.line, 1, Item::Control(message));
        }
    }

    fn plan_report(&mut self, env: &mut Env) {
        if let Some(after) = self
            .end
            .next_report(env.instant(self.host), self.differed.is_some())
        {
            self.plan += 1;
            env.timer(self.of, after, Timer::Report(self.plan));
        }
    }

    pub(crate) fn report_due(&mut self, plan: u64, env: &mut Env) {
        if self.lost.is_none() && plan == self.plan {
            self.report(env);
            self.plan_report(env);
        }
    }

    fn step_soon(&mut self, env: &mut Env) {
        if !std::mem::replace(&mut self.stepping, true) {
            let slow = env.slow_replay;
            let after =
                Duration::from_micros(20) + env.jitter(slow.max(Duration::from_micros(300)));
            env.timer(self.of, after, Timer::Step);
        }
    }

    /// The replay gets on by some entries.
    pub(crate) fn step(&mut self, env: &mut Env) -> Vec<Told> {
        self.stepping = false;
        if self.over {
            return Vec::new();
        }
        if self.cold {
            self.keep(env);
            let over = self.lost.as_ref().filter(|_| self.ended);
            match self.follower.while_cold(over, false, false) {
                WhileCold::Keep => return Vec::new(),
                WhileCold::Replay => {
                    self.cold = false;
                    self.followed.joined();
                    for (id, succeeded) in self.notices.drain(..) {
                        self.followed.completed(id, succeeded);
                    }
                    env.checks.renewals_cut += u64::from(self.asked);
                }
                WhileCold::Discard | WhileCold::End => self.queue.clear(),
            }
        }
        let some = env.rng.usize(1..12);
        for _ in 0..some {
            let Some((lsn, logged)) = self.queue.pop_front() else {
                break;
            };
            self.execute(lsn, &logged, env);
            self.executed = lsn;
        }
        if !self.queue.is_empty() {
            self.step_soon(env);
            return Vec::new();
        }
        self.at_end(env)
    }

    /// What it keeps it says to be executed.
    fn keep(&mut self, env: &mut Env) {
        let of = self.of;
        let protects = |(_, logged): &(Lsn, Logged)| logged.entry == Entry::Protected;
        if !self.protected && self.queue.iter().any(protects) {
            env.note(|| format!("{of}: protects, cold"));
            self.protected = true;
            env.checks.joins += 1;
            self.follower.protect();
        }
        if let Some((last, _)) = self.queue.back() {
            self.executed = *last;
        }
        if !self.ended {
            while let Some((_, part)) = self.memory.pop_front_if(|(due, _)| *due <= env.now) {
                self.kept.take(part);
            }
        }
        self.renew(env);
    }

    /// A state that has come, with its memory, takes the place of the log before; more of it may be asked for.
    fn renew(&mut self, env: &mut Env) {
        let early = env.has(Defect::RenewedWithoutMemory);
        let state = self
            .queue
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, (_, logged))| match &logged.entry {
                Entry::Renewed(rest, renewal) if early || self.kept.has(*renewal) => {
                    Some((at, self.kept.guest(rest)))
                }
                _ => None,
            });
        if let Some((at, guest)) = state {
            self.queue.drain(..=at);
            self.replay.guest = guest;
            self.follower.take_over();
            self.asked = false;
            env.checks.renewals += 1;
        }
        let is_due = self.protected && !self.asked && self.lost.is_none();
        if is_due && env.rng.u32(..RENEWS) == 0 {
            self.asked = true;
            env.send(self.line, 1, Item::Control(Control::Renew));
        }
    }

    fn execute(&mut self, lsn: Lsn, logged: &Logged, env: &mut Env) {
        let of = self.of;
        match &logged.entry {
            Entry::DiskDone(id, result) => self.followed.completed(*id, result.is_ok()),
            Entry::DiskShared(id, _) => self.followed.completed(*id, true),
            _ => {}
        }
        if logged.entry == Entry::Begin {
            (self.receives, self.spoiled, self.lacks_state) = (true, false, true);
        }
        if self.receives || !self.follower.executes() {
            let is_end = matches!(logged.entry, Entry::Commit(..));
            if is_end && self.spoiled {
                env.note(|| format!("{of}: cannot use the state that it got with LSN {lsn}"));
                self.receives = false;
                self.differs(lsn, env);
            } else if self.replay.receive(&logged.entry) {
                env.note(|| format!("{of}: has taken over the state"));
                self.follower.take_over();
                match self.follower.is_protecting() {
                    true => self.followed.repaired(),
                    false => self.followed.joined(),
                }
                (self.receives, self.lacks_state) = (false, false);
                self.flipped = false;
            }
        } else if !self.replay.execute(logged) {
            if !self.flipped {
                env.fail(format!(
                    "{}: process {of} differs at LSN {lsn}: {logged:?}",
                    Rule::InputBesideTransfer
                ));
            }
            env.note(|| format!("{of}: differs at LSN {lsn}"));
            self.differs(lsn, env);
        }
        for (sectors, data) in self.replay.reads.drain(..) {
            env.shared_reads.push((of, sectors, data));
            env.disk_changed = true;
        }
        for request in self.replay.asked.drain(..) {
            self.followed.issued(request);
        }
        match &logged.entry {
            Entry::Protected => {
                env.note(|| format!("{of}: protects"));
                if self.lacks_state {
                    env.fail(format!(
                        "{}: process {of} protects a guest whose state it lacks",
                        Rule::InputBesideTransfer
                    ));
                }
                env.checks.joins += u64::from(!std::mem::replace(&mut self.protected, true));
                self.follower.protect();
            }
            Entry::Output(reply) => {
                self.unreleased.keep(lsn, *reply);
                self.unreleased.forget(self.released);
            }
            _ => {}
        }
    }

    /// It needs the whole state.
    fn differs(&mut self, lsn: Lsn, env: &mut Env) {
        self.follower.differ();
        self.differed = Some(lsn);
        self.plan_report(env);
    }

    /// What to do where all of the log was replayed.
    fn at_end(&mut self, env: &mut Env) -> Vec<Told> {
        let Some(reason) = self.lost.as_ref().filter(|_| self.queue.is_empty()) else {
            return Vec::new();
        };
        if !self.ended && !env.has(Defect::ClaimBeforeReplay) {
            return Vec::new();
        }
        self.over = true;
        let found = self.follower.at_end(reason);
        let found = match found {
            AtEnd::Discard if env.has(Defect::TargetClaims) || env.has(Defect::AnybodyClaims) => {
                AtEnd::Claim
            }
            AtEnd::Refuse if env.has(Defect::DivergedClaims) => AtEnd::Claim,
            found => found,
        };
        vec![Told::AtEnd(found)]
    }

    /// A bit of its guest's memory is another one from now on.
    pub(crate) fn flip(&mut self) {
        if self.cold {
            return; // its guest is not there
        }
        if self.receives {
            self.spoiled = true;
        } else if self.follower.executes() {
            self.flipped = true;
            self.replay.guest.memory[0] ^= 1;
        }
    }

    /// What goes out when this host goes live: what may not have left, and what the guest has made since.
    pub(crate) fn outputs(&mut self) -> Vec<Reply> {
        let again = self.unreleased.take(self.released);
        again.chain(self.replay.made.drain(..)).collect()
    }
}
