//! A process that runs the guest.

mod disk;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ftvm_vmm::protocol::live::{AtExit, Live, Lost};
use ftvm_vmm::protocol::outputs::HeldOutputs;
use logging_channel::LossReason;
use logging_channel::control::Control;
use logging_channel::entry::Lsn;
use logging_channel::heartbeat::{Heartbeat, Role};
use logging_channel::protocol::{Appended, Permit, PrimaryEnd, Pulse};

use crate::defect::Defect;
use crate::disk::client::Client;
use crate::env::Env;
use crate::event::Timer;
use crate::guest::{Entry, Guest, Logged, Renewing, Reply, Request, Transfer};
use crate::message::{Item, ProcessId};

/// For how long a guest that is to be handed over stands still until its backup has everything.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The longest time between two exits.
const EXIT: Duration = Duration::from_millis(12);

/// What runs the guest.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) of: ProcessId,
    pub(crate) host: usize,
    pub(crate) epoch: u64,
    pub(crate) guest: Guest,
    pub(crate) live: Live,
    held: HeldOutputs<Reply>,
    /// Permits of a thread that is late.
    late: Vec<Permit>,
    inputs: VecDeque<Request>,
    disk: Client,
    /// The guest's last request to its disk before the session.
    asked_before: u64,
    pub(crate) session: Option<Session>,
    /// The guest begins with its first backup.
    pub(crate) waits: bool,
    /// The guest is to be handed over, as soon as the backup has everything, until then.
    hands_over: Option<Instant>,
    /// It is, and the guest stands still.
    handed_over: bool,
    /// A session that begins at the next exit.
    accepted: Option<(usize, u64)>,
}

/// The session with a backup, or the last one.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) line: usize,
    pub(crate) number: u64,
    peer: ProcessId,
    end: PrimaryEnd,
    pulse: Pulse,
    open: Vec<Logged>,
    next: Lsn,
    told_released: Lsn,
    transfer: Option<Transfer>,
    renewing: Option<Renewing>,
    pub(crate) lost: bool,
}

/// What an exit, or a loss, means to the owner of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    TakenOver,
    Paired,
    PeerLost(String),
    /// The session has ended, because the backup is to go on.
    HandsOver(String),
}

impl Runner {
    /// A guest that goes on, in an epoch that was won, with this disk.
    pub(crate) fn new(
        (of, host): (ProcessId, usize),
        epoch: u64,
        guest: Guest,
        disk: Client,
        env: &mut Env,
    ) -> Self {
        env.timer(of, EXIT, Timer::Exit);
        let mut it = Self {
            of,
            host,
            epoch,
            guest,
            live: Live::alone(Lsn(0)),
            held: HeldOutputs::default(),
            late: Vec::new(),
            inputs: VecDeque::new(),
            disk,
            asked_before: 0,
            session: None,
            waits: false,
            hands_over: None,
            handed_over: false,
            accepted: None,
        };
        if !env.has(Defect::InFlightForgotten) {
            it.ask_disk_again(env);
        }
        it
    }

    /// A backup that may join.
    pub(crate) fn accept(&mut self, line: usize, number: u64) {
        self.accepted = Some((line, number));
    }

    /// The connection of one that has not begun is gone.
    pub(crate) fn forget(&mut self, line: usize) {
        self.accepted.take_if(|(accepted, _)| *accepted == line);
    }

    /// Whether there is room for one.
    pub(crate) fn is_free(&self) -> bool {
        self.live.is_alone() && self.accepted.is_none()
    }

    /// The process that protects the guest.
    pub(crate) fn protected_by(&self) -> Option<ProcessId> {
        let session = self.session.as_ref().filter(|session| !session.lost);
        session
            .filter(|_| self.live.is_protected())
            .map(|session| session.peer)
    }

    pub(crate) fn has_session(&self, number: u64) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.number == number && !session.lost)
    }

    pub(crate) fn frame(&mut self, request: Request) {
        if self.inputs.len() < 64 {
            self.inputs.push_back(request);
        }
    }

    /// The guest comes to an exit.
    pub(crate) fn exit(&mut self, env: &mut Env) -> Option<Told> {
        let again = Duration::from_micros(500) + env.jitter(EXIT);
        env.timer(self.of, again, Timer::Exit);
        if let Some((line, number)) = self.accepted.take() {
            self.begin_session(line, number, env);
        }
        if self.handed_over {
            return None;
        }
        if let Some(until) = self.hands_over {
            if let Some(told) = self.hand_over(env) {
                return Some(told);
            }
            if env.instant(self.host) < until {
                return None; // the guest stands still
            }
            self.hands_over = None;
        }
        let told = self.protect(env);
        // Before anything is asked for: the disk's thread looks at the log before it sends.
        self.disk_moves(env);
        self.waits &= told != Some(Told::Paired);
        if let Some(session) = self.session.as_mut().filter(|session| !session.lost) {
            // The guest stands still until its backup has caught up.
            let behind = session.end.is_behind();
            session
                .end
                .note_held(behind.then(|| env.instant(self.host)));
            if behind {
                return told;
            }
            let heeds = !env.has(Defect::ProtectedWithoutState);
            if heeds && session.end.take_state_wanted().is_some() {
                env.note(|| "a backup asks for the state".into());
                session.transfer = Some(Transfer::default());
                session.renewing = None;
                self.live.state_begun();
                self.append(Entry::Begin, env);
            }
        }
        self.transfer(env);
        self.renew(env);
        if self.waits {
            return told;
        }
        self.disk_done(env);
        let time = env.wall(self.host).max(self.guest.clock());
        self.append(Entry::Tick(time), env);
        if let Some(request) = self.guest.tick(time) {
            self.ask_disk(request, env);
        }
        self.disk_moves(env);
        while let Some(request) = self.inputs.pop_front() {
            self.append(Entry::Request(request), env);
            let (reply, page) = self.guest.request(request);
            if !env.has(Defect::StateTakenEarly)
                && let (Some(page), Some(session)) = (page, &mut self.session)
            {
                if let Some(transfer) = &mut session.transfer {
                    transfer.wrote(page);
                }
                if let Some(renewing) = &mut session.renewing {
                    renewing.wrote(page);
                }
            }
            if let Some(reply) = reply {
                let lsn = self.output(reply, env);
                self.held.hold(lsn, reply);
                let permit = self.permit(env);
                // The thread may be late with what it has decided.
                if env.rng.u32(..4) == 0 {
                    self.late.push(permit);
                    let after = env.jitter(Duration::from_millis(10));
                    env.timer(self.of, after, Timer::Late);
                } else {
                    self.release(permit, env);
                }
            }
        }
        told
    }

    /// The entry that an output waits for: the last one, where there is nobody to log it for.
    fn output(&mut self, reply: Reply, env: &mut Env) -> Lsn {
        let lost = self.session.as_ref().is_none_or(|session| session.lost);
        if lost && env.has(Defect::NoEntryWhileContesting) {
            return Lsn(0);
        }
        if self.live.is_alone() {
            return self.live.appended();
        }
        let lsn = self.append(Entry::Output(reply), env);
        self.flush(env);
        lsn
    }

    fn begin_session(&mut self, line: usize, number: u64, env: &mut Env) {
        let now = env.instant(self.host);
        let timeout = env.settings.heartbeat_timeout;
        let peer = env.network.lines[line].ends[0];
        let of = self.of;
        env.note(|| format!("{of}: process {peer} joins"));
        let session = Session {
            line,
            number,
            peer,
            end: PrimaryEnd::new(&env.settings, timeout, now),
            pulse: Pulse::new(Role::Primary, number, timeout, now),
            open: Vec::new(),
            next: Lsn::FIRST,
            told_released: Lsn(0),
            transfer: Some(Transfer::default()),
            renewing: None,
            lost: false,
        };
        env.timer(self.of, Duration::ZERO, Timer::Beat(number));
        env.timer(self.of, session.end.look_interval(), Timer::Look(number));
        self.session = Some(session);
        self.live.begin_session();
        self.asked_before = self.guest.rest.disk.asked().0;
        self.append(Entry::Begin, env);
    }

    /// Its backup is to go on with the guest, if one protects it.
    pub(crate) fn is_to_hand_over(&mut self, env: &Env) {
        let session = self.session.as_ref().filter(|session| !session.lost);
        if session.is_some_and(|it| !it.end.is_repairing()) && self.live.is_protected() {
            self.hands_over = Some(env.instant(self.host) + CATCH_UP);
        }
    }

    /// It has not gone on in time.
    pub(crate) fn runs_on(&mut self) {
        self.handed_over = false;
    }

    /// Hands the guest over, if the backup has everything.
    fn hand_over(&mut self, env: &mut Env) -> Option<Told> {
        self.flush(env);
        let last = Lsn(self.live.appended().0 - self.live.base().0);
        let session = self.session.as_ref().filter(|session| !session.lost);
        let Some(session) = session else {
            self.hands_over = None;
            return None;
        };
        if session.end.executed() < last || session.end.is_repairing() {
            return None;
        }
        let permit = self.permit(env);
        self.release(permit, env);
        if !permit.holds(env.instant(self.host)) || !self.live.hand_over() {
            return None;
        }
        self.hands_over = None;
        self.handed_over = true;
        match self.lose(&LossReason::HandedOver, env)? {
            Told::PeerLost(reason) => Some(Told::HandsOver(reason)),
            told => Some(told),
        }
    }

    /// Protection may begin here.
    fn protect(&mut self, env: &mut Env) -> Option<Told> {
        let session = self.session.as_ref().filter(|session| !session.lost)?;
        let executed = session.end.executed();
        let wants_state = session.end.wants_state() && !env.has(Defect::ProtectedWithoutState);
        match self.live.at_exit(executed, wants_state) {
            AtExit::Nothing => return None,
            AtExit::TakenOver => return Some(Told::TakenOver),
            AtExit::Protected => {}
        }
        let of = self.of;
        env.note(|| format!("{of}: protected"));
        let session = session.line;
        let from = Lsn(self.append(Entry::Protected, env).0 - self.live.base().0);
        env.checks.protects(session, self.epoch, from);
        self.flush(env);
        Some(Told::Paired)
    }

    fn transfer(&mut self, env: &mut Env) {
        let guest = &self.guest;
        let session = self.session.as_mut().filter(|session| !session.lost);
        let Some(session) = session else { return };
        let Some(transfer) = &mut session.transfer else {
            return;
        };
        let part = transfer.part(guest);
        let last = matches!(part, Entry::Commit(..));
        if last {
            session.transfer = None;
        }
        let lsn = self.append(part, env);
        if last {
            let sent = Lsn(lsn.0 - self.live.base().0);
            self.live.state_sent(sent);
            self.flush(env);
        }
    }

    /// Sends the state to a backup that has too much of the log, and goes on with that.
    fn renew(&mut self, env: &mut Env) {
        let session = self.session.as_mut().filter(|session| !session.lost);
        let Some(session) = session else { return };
        if session.end.take_renewal_wanted() && session.transfer.is_none() {
            session.renewing = Some(Renewing::new(env.rng.u64(..)));
        }
        let Some(renewing) = &mut session.renewing else {
            return;
        };
        let (memory, end) = renewing.next(&self.guest);
        let line = session.line;
        for part in memory {
            env.send(line, 0, Item::Memory(part));
        }
        if let Some(end) = end {
            session.renewing = None;
            self.append(end, env);
            self.flush(env);
        }
    }

    fn append(&mut self, entry: Entry, env: &mut Env) -> Lsn {
        let lsn = self.live.append();
        if let Some(session) = self.session.as_mut().filter(|session| !session.lost) {
            let opens_batch = session.open.is_empty();
            let now = env.instant(self.host);
            let appended = Appended {
                lsn: session.next,
                opens_batch,
            };
            session.next = session.next.next();
            session.end.append(appended, &entry.payload(), || now);
            session.open.push(Logged {
                entry,
                check: self.guest.digest(),
            });
            if opens_batch {
                let linger = env.settings.linger;
                env.timer(self.of, linger, Timer::Linger(session.number));
            }
        }
        lsn
    }

    pub(crate) fn flush(&mut self, env: &mut Env) {
        let Some(session) = self.session.as_mut().filter(|session| !session.lost) else {
            return;
        };
        if session.open.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut session.open);
        let first = Lsn(session.next.0 - entries.len() as u64);
        let batch = Item::Batch {
            view: self.epoch,
            first,
            entries,
        };
        env.send(session.line, 0, batch);
        let released = session.end.released();
        if released > session.told_released {
            session.told_released = released;
            env.send(session.line, 0, Item::Control(Control::Released(released)));
        }
    }

    fn permit(&self, env: &Env) -> Permit {
        let session = self.session.as_ref().map(|session| session.end.permit());
        let permit = self.live.permit(session);
        match env.defect {
            Some(Defect::PermitWithoutLease) => Permit {
                until: None,
                ..permit
            },
            Some(Defect::PermitForARoundTripMore) => {
                let end = self.session.as_ref().map(|session| &session.end);
                let more = end.and_then(PrimaryEnd::round_trip).unwrap_or_default();
                let until = permit.until.map(|until| until + more);
                Permit { until, ..permit }
            }
            Some(Defect::OutputBeforeAcknowledgement) => EVERYTHING,
            Some(Defect::EverythingMayLeaveAlone) if permit.until.is_none() => EVERYTHING,
            _ => permit,
        }
    }

    /// A thread does what it has decided before.
    pub(crate) fn late(&mut self, env: &mut Env) {
        for permit in std::mem::take(&mut self.late) {
            self.release(permit, env);
        }
    }

    fn release(&mut self, permit: Permit, env: &mut Env) {
        let mut last = None;
        while let Some((lsn, reply)) = self.held.next(permit, env.instant(self.host)) {
            let of_session = Lsn(lsn.0.saturating_sub(self.live.base().0));
            let mut from_before = false;
            if let Some(session) = &self.session {
                from_before = env.checks.is_from_before(session.line, of_session);
                let may = env.checks.may_leave(session.line, self.epoch, of_session);
                if let Err(what) = may {
                    env.fail(what);
                }
            }
            let of = (self.of, self.host);
            env.leave(of, self.epoch, reply, from_before);
            last = Some(lsn);
        }
        if let (Some(last), Some(session)) = (last, &mut self.session)
            && let Some(lsn) = last.0.checked_sub(self.live.base().0)
        {
            session.end.note_released(Lsn(lsn));
        }
    }

    /// What waits may leave now.
    pub(crate) fn release_permitted(&mut self, env: &mut Env) {
        let permit = self.permit(env);
        self.release(permit, env);
    }

    pub(crate) fn hear(&mut self, message: Control, env: &mut Env) -> Option<Told> {
        let now = env.instant(self.host);
        let session = self.session.as_mut().filter(|session| !session.lost)?;
        session.pulse.hear_log(now);
        match session.end.hear([message], now) {
            Ok(true) => {
                self.release_permitted(env);
                self.disk_moves(env);
            }
            Ok(false) => {}
            Err(what) => {
                env.fail(format!("a backup broke the protocol: {what}"));
                return self.lose(&LossReason::Protocol(what), env);
            }
        }
        None
    }

    pub(crate) fn hear_beat(&mut self, beat: &Heartbeat, env: &Env) {
        let now = env.instant(self.host);
        if let Some(session) = self.session.as_mut().filter(|session| !session.lost)
            && let Some(heard) = session.pulse.hear(beat, now)
        {
            session.end.hear_heartbeat(&heard, now);
        }
    }

    pub(crate) fn beat(&mut self, env: &mut Env) -> Option<Told> {
        let now = env.instant(self.host);
        let session = self.session.as_mut().filter(|session| !session.lost)?;
        let beat = session.pulse.beat(now, session.end.released(), None);
        env.send_beat(self.host, session.peer, beat);
        let interval = session.pulse.interval();
        env.timer(self.of, interval, Timer::Beat(session.number));
        let silence = session.pulse.tick(now)?;
        self.lose(&silence, env)
    }

    pub(crate) fn look(&mut self, env: &mut Env) -> Option<Told> {
        let session = self.session.as_mut().filter(|session| !session.lost)?;
        env.timer(
            self.of,
            session.end.look_interval(),
            Timer::Look(session.number),
        );
        let found = session.end.look(env.instant(self.host))?;
        self.lose(&found, env)
    }

    /// The session is over.
    pub(crate) fn lose(&mut self, reason: &LossReason, env: &mut Env) -> Option<Told> {
        let session = self.session.as_mut().filter(|session| !session.lost)?;
        session.lost = true;
        session.transfer = None;
        session.renewing = None;
        env.close(session.line, 1);
        let of = self.of;
        env.note(|| format!("{of}: the backup is lost: {reason}"));
        match self.live.lose_session() {
            Lost::Join => {
                env.checks.joins_cut += 1;
                None
            }
            Lost::Backup => Some(Told::PeerLost(reason.to_string())),
        }
    }

    /// This host won the next epoch.
    pub(crate) fn won(&mut self, epoch: u64, env: &mut Env) {
        self.epoch = epoch;
        self.handed_over = false;
        self.live.go_on_alone();
        self.release_permitted(env);
        self.disk_moves(env);
    }
}

/// What no permit is.
const EVERYTHING: Permit = Permit {
    up_to: Lsn(u64::MAX),
    until: None,
};
