//! A run of `ftvm`: what it is, and what it makes of what happens.

mod handshake;
mod joining;

use std::collections::VecDeque;
use std::time::Duration;

use disk_server::arbiter::Claimant;
use disk_server::views;
use ftvm_vmm::disk::unflushed::Unflushed;
use ftvm_vmm::protocol::epoch::{Core, Effect, Input};
use ftvm_vmm::protocol::follower::AtEnd;
use ftvm_vmm::protocol::rights::right_of_another;
use logging_channel::LossReason;
use logging_channel::handshake::Title;
use logging_channel::heartbeat::Heartbeat;
use logging_channel::session::Confirmation;

use self::handshake::{HANDSHAKE, Handshake};
use crate::defect::Defect;
use crate::disk::client::Client;
use crate::disk::wire::Item as DiskItem;
use crate::env::Env;
use crate::event::{Event, Timer};
use crate::follower::{self, Following};
use crate::guest::{Guest, Request};
use crate::keeper::Keeper;
use crate::live::{self, Runner};
use crate::message::{Item, ProcessId, Told, claimant};
use crate::pinger::{self, Pinger};
use crate::rule::Rule;

/// For how long the next epoch is left to a backup that is to go on.
const LEFT_FOR: Duration = Duration::from_secs(3);
/// How often is looked meanwhile whether it has won.
const LEFT_LOOKS: Duration = Duration::from_millis(100);

/// A process on a host.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) host: usize,
    pub(crate) me: Claimant,
    pub(crate) alive: bool,
    /// A fault ended it.
    pub(crate) killed: bool,
    /// How many faults keep it from running.
    pub(crate) frozen: u32,
    /// What happens meanwhile.
    pub(crate) pending: VecDeque<Event>,
    keeper: Option<Keeper>,
    pinger: Pinger,
    pub(crate) role: Role,
    /// A backup that this process may take, or the primary that it asked.
    handshake: Option<Handshake>,
}

/// What a process does.
#[derive(Debug)]
pub(crate) enum Role {
    /// Waits to be a backup.
    Idle,
    /// Connects to a primary, because that was proposed, or somebody wants it.
    Joining {
        proposed: bool,
    },
    Follows(Box<Following>),
    Runs(Box<Runner>),
}

impl Process {
    fn new(id: ProcessId, host: usize, role: Role, env: &mut Env) -> Self {
        let me = claimant(id, host);
        Self {
            id,
            host,
            pinger: Pinger::new(me.clone(), id, host, env),
            me,
            alive: true,
            killed: false,
            frozen: 0,
            pending: VecDeque::new(),
            keeper: None,
            role,
            handshake: None,
        }
    }

    /// The first one, which has won its epoch.
    pub(crate) fn primary(id: ProcessId, host: usize, epoch: u64, env: &mut Env) -> Self {
        let me = claimant(id, host);
        let disk = Client::new((id, host, me), epoch, Unflushed::default(), env);
        let mut runner = Runner::new((id, host), epoch, Guest::default(), disk, env);
        runner.waits = env.waits_for_backup;
        let mut it = Self::new(id, host, Role::Runs(Box::new(runner)), env);
        let core = Core::holding(it.me.clone(), epoch);
        it.keeper = Some(Keeper::new(core, it.me.clone(), id, host, env));
        it
    }

    /// One that wants to join a host's guest, by this line to it.
    pub(crate) fn backup(id: ProcessId, host: usize, line: usize, env: &mut Env) -> Self {
        let mut it = Self::new(id, host, Role::Joining { proposed: false }, env);
        it.hello(line, env);
        it
    }

    /// One that waits to be a backup.
    pub(crate) fn idle(id: ProcessId, host: usize, env: &mut Env) -> Self {
        Self::new(id, host, Role::Idle, env)
    }

    /// What it says of itself to the view service.
    fn says(&self) -> Option<views::Role> {
        let vm = pinger::vm();
        Some(match &self.role {
            Role::Idle | Role::Joining { proposed: true } => self.pinger.idle(),
            Role::Joining { proposed: false } => return None,
            Role::Follows(_) => views::Role::Backup {
                vm,
                epoch: self.keeper.as_ref()?.core.epoch(),
                condition: views::Condition::default(),
            },
            Role::Runs(runner) => views::Role::Primary {
                vm,
                epoch: runner.epoch,
                wants: (runner.is_free() && self.handshake.is_none())
                    .then(|| pinger::wanted(self.host)),
                condition: views::Condition::default(),
            },
        })
    }

    /// Whether the guest goes on as long as this process does.
    pub(crate) fn is_copy(&self) -> bool {
        self.alive
            && match &self.role {
                Role::Runs(_) => true,
                Role::Follows(following) => following.protected && !following.flipped,
                Role::Idle | Role::Joining { .. } => false,
            }
    }

    /// Ends by itself.
    fn exit(&mut self, why: &str, env: &mut Env) {
        let id = self.id;
        env.note(|| format!("{id}: exits: {why}"));
        self.alive = false;
        env.ended = true;
    }

    pub(crate) fn frame(&mut self, request: Request) {
        if let Role::Runs(runner) = &mut self.role {
            runner.frame(request);
        }
    }

    pub(crate) fn hear_beat(&mut self, beat: &Heartbeat, env: &Env) {
        match &mut self.role {
            Role::Runs(runner) => runner.hear_beat(beat, env),
            Role::Follows(following) => following.hear_beat(beat, env),
            Role::Idle | Role::Joining { .. } => {}
        }
    }

    /// Whether it reads what comes over a line that it has closed.
    pub(crate) fn drains(&self, line: usize) -> bool {
        matches!(&self.role, Role::Follows(it) if it.line == line && !it.ended)
    }

    /// Something comes over a line.
    pub(crate) fn packet(&mut self, line: usize, item: Item, env: &mut Env) {
        let gone = matches!(item, Item::Fin | Item::Reset);
        if gone && self.handshake.take_if(|it| it.line == line).is_some() {
            return self.not_taken("was not taken", env);
        }
        match (&mut self.role, item) {
            (Role::Runs(runner), Item::Hello) => {
                if !runner.is_free() || self.handshake.is_some() {
                    return env.close(line, 1);
                }
                let session = env.rng.u64(1..);
                let title = Title {
                    epoch: runner.epoch,
                    holder: self.me.as_str().to_owned(),
                };
                env.send(
                    line,
                    0,
                    Item::Welcome {
                        session,
                        title: title.clone(),
                    },
                );
                env.timer(self.id, HANDSHAKE, Timer::Handshake(line));
                self.handshake = Some(Handshake {
                    line,
                    session,
                    title,
                    question: None,
                    backup: None,
                });
            }
            (Role::Runs(runner), Item::Ready(backup)) => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.backup = Some(backup.clone());
                    let next = runner.epoch + 1;
                    self.tell(Input::Joins(backup.clone()), env);
                    if env.has(Defect::SessionBeforeAdmission) {
                        self.admitted(next, &backup, env);
                    }
                }
            }
            (Role::Joining { .. }, Item::Welcome { session, title }) => {
                if let Some(handshake) = &mut self.handshake {
                    (handshake.session, handshake.title) = (session, title);
                    self.confirm(env);
                }
            }
            (Role::Runs(runner), item) => {
                let session = runner.session.as_ref().filter(|it| it.line == line);
                match (session.is_some(), item) {
                    (true, Item::Control(message)) => {
                        let told = runner.hear(message, env);
                        self.live_told(told, env);
                    }
                    (true, Item::Fin | Item::Reset) => {
                        let told = runner.lose(&LossReason::Closed, env);
                        self.live_told(told, env);
                    }
                    (false, Item::Fin | Item::Reset) => runner.forget(line),
                    _ => {}
                }
            }
            (Role::Follows(following), item) if following.line == line => {
                let told = following.hear(item, env);
                self.follower_told(told, env);
            }
            (Role::Follows(_), Item::Hello) => env.close(line, 1),
            (Role::Joining { .. }, Item::Begin(epoch)) => {
                let Some(Handshake { session, title, .. }) = self.handshake.take() else {
                    return;
                };
                let following = Following::new(self.id, self.host, line, session, env);
                let holder = title.holder.parse().expect("a claimant");
                let core = Core::following(self.me.clone(), epoch, holder);
                let keeper = Keeper::new(core, self.me.clone(), self.id, self.host, env);
                self.keeper = Some(keeper);
                self.role = Role::Follows(Box::new(following));
            }
            _ => {}
        }
    }

    /// Something comes over a connection to the disk.
    pub(crate) fn hear_disk(&mut self, wire: usize, item: DiskItem, env: &mut Env) {
        if let Role::Runs(runner) = &mut self.role
            && runner.hear_disk(wire, item, env)
        {
            self.tell(Input::Doubt, env);
        }
    }

    pub(crate) fn told(&mut self, number: u64, told: Told, env: &mut Env) {
        if let Told::Pinged(record, proposal) = told {
            let tried = self.pinger.hear(number, &record, proposal);
            return tried.iter().for_each(|it| self.try_out(it, env));
        }
        let asked = self.handshake.take_if(|it| it.question == Some(number));
        let (Some(mut handshake), Told::Record(record)) = (asked, &told) else {
            if let Some(keeper) = &mut self.keeper {
                let effects = keeper.hear(number, told, env);
                self.follow(effects, env);
            }
            return;
        };
        handshake.question = None;
        let line = handshake.line;
        match &mut self.role {
            Role::Joining { .. } => match right_of_another(record, &handshake.title) {
                Confirmation::Held => {
                    env.send(line, 1, Item::Ready(self.me.clone()));
                    self.handshake = Some(handshake);
                }
                other => {
                    env.close(line, 0);
                    self.not_taken(&format!("{other:?}"), env);
                }
            },
            Role::Idle | Role::Runs(_) | Role::Follows(_) => {}
        }
    }

    pub(crate) fn timer(&mut self, timer: Timer, env: &mut Env) {
        match timer {
            Timer::Unanswered(number) => {
                let mine = |it: &Handshake| it.question == Some(number);
                if self.handshake.as_ref().is_some_and(mine) {
                    return self.confirm(env);
                }
                if let Some(keeper) = &mut self.keeper {
                    keeper.unanswered(number, env);
                }
            }
            Timer::AskAgain => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.ask_again(env);
                }
            }
            Timer::Record => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.look(env);
                }
            }
            Timer::Handshake(line) => {
                if self.handshake.take_if(|it| it.line == line).is_some() {
                    match self.role {
                        Role::Joining { .. } => {
                            env.close(line, 0);
                            self.not_taken("no session came about", env);
                        }
                        _ => env.close(line, 1),
                    }
                }
            }
            Timer::Left(until) => self.look_whether_left(until, env),
            Timer::Ping => {
                let role = self.says();
                self.pinger.ping(role, env);
            }
            timer => match &mut self.role {
                Role::Runs(runner) => {
                    let told = run(runner, timer, env);
                    self.live_told(told, env);
                }
                Role::Follows(following) => {
                    let told = match timer {
                        Timer::Beat(_) => following.beat(env),
                        Timer::Step => following.step(env),
                        Timer::Drained => following.drained(env),
                        Timer::Report(plan) => {
                            following.report_due(plan, env);
                            Vec::new()
                        }
                        _ => Vec::new(),
                    };
                    self.follower_told(told, env);
                }
                Role::Idle | Role::Joining { .. } => {}
            },
        }
    }

    /// Its disk answers its backup, and not this host.
    pub(crate) fn give_way(&mut self, env: &mut Env) {
        if let Role::Runs(runner) = &mut self.role
            && runner.live.is_protected()
        {
            let for_ = env.settings.output_timeout();
            let told = runner.lose(&LossReason::NoStorage { for_ }, env);
            self.live_told(told, env);
        }
    }

    /// An operator wants its backup to go on with the guest.
    pub(crate) fn hand_over(&mut self, env: &mut Env) {
        if let Role::Runs(runner) = &mut self.role {
            runner.is_to_hand_over(env);
        }
    }

    /// It looks whether the one has won to which its guest was handed over.
    fn look_whether_left(&mut self, until: Duration, env: &mut Env) {
        let leaves = |it: &Keeper| it.core.leaves_next();
        if !self.keeper.as_ref().is_some_and(leaves) {
            return;
        }
        if env.now < until {
            env.timer(self.id, LEFT_LOOKS, Timer::Left(until));
            return self.tell(Input::Doubt, env);
        }
        if let Role::Runs(runner) = &mut self.role {
            runner.runs_on();
        }
        self.tell(Input::Overdue, env);
    }

    fn live_told(&mut self, told: Option<live::Told>, env: &mut Env) {
        match told {
            Some(live::Told::TakenOver) => self.tell(Input::TakenOver, env),
            Some(live::Told::Paired) => self.tell(Input::Paired, env),
            Some(live::Told::HandsOver(reason)) => {
                if let Some(epoch) = self.keeper.as_ref().map(|it| it.core.epoch()) {
                    self.tell(Input::HandOver(epoch), env);
                    self.tell(Input::PeerLost(reason), env);
                }
            }
            Some(live::Told::PeerLost(reason)) => self.tell(Input::PeerLost(reason), env),
            None => {}
        }
    }

    fn follower_told(&mut self, told: Vec<follower::Told>, env: &mut Env) {
        for told in told {
            match told {
                follower::Told::PeerLost(reason) => self.tell(Input::PeerLost(reason), env),
                follower::Told::AtEnd(AtEnd::Claim) => self.tell(Input::Ready, env),
                follower::Told::AtEnd(other) => {
                    if self.is_copy() {
                        env.fail(format!("process {} protects, and ends: {other:?}", self.id));
                    }
                    self.exit(&format!("{other:?}"), env);
                }
            }
        }
    }

    fn tell(&mut self, input: Input, env: &mut Env) {
        if let Some(keeper) = &mut self.keeper {
            let effects = keeper.tell(input, env);
            self.follow(effects, env);
        }
    }

    fn follow(&mut self, effects: Vec<Effect>, env: &mut Env) {
        for effect in effects {
            match effect {
                Effect::PeerLost(_) | Effect::Unclear(_) => {}
                Effect::Leaves => {
                    let until = env.now + LEFT_FOR;
                    env.timer(self.id, LEFT_LOOKS, Timer::Left(until));
                }
                Effect::HandedOver(..) => {
                    env.checks.hand_overs += 1;
                    self.exit("its guest is handed over", env);
                }
                Effect::Halt(reason) => self.exit(&reason, env),
                Effect::Alone(epoch) => self.alone(epoch, env),
                Effect::Admitted(epoch, backup) => self.admitted(epoch, &backup, env),
                Effect::Acknowledged(_) => {
                    if let Role::Runs(runner) = &mut self.role {
                        runner.live.acknowledged();
                    }
                }
            }
        }
    }

    /// The backup that is there, or has been, belongs to the epoch.
    fn admitted(&mut self, epoch: u64, backup: &Claimant, env: &mut Env) {
        let Role::Runs(runner) = &mut self.role else {
            return;
        };
        runner.epoch = epoch;
        let waits = |it: &mut Handshake| it.backup.as_ref() == Some(backup);
        if let Some(handshake) = self.handshake.take_if(waits) {
            env.send(handshake.line, 0, Item::Begin(epoch));
            runner.accept(handshake.line, handshake.session);
        }
    }

    /// This process won an epoch.
    fn alone(&mut self, epoch: u64, env: &mut Env) {
        let id = self.id;
        env.note(|| format!("{id}: alone in epoch {epoch}"));
        match &mut self.role {
            Role::Runs(runner) => runner.won(epoch, env),
            Role::Follows(following) => {
                if !following.protected {
                    env.fail(format!(
                        "{}: process {id} never protected the guest, and runs it",
                        Rule::NothingUndone
                    ));
                }
                let outputs = following.outputs();
                let guest = following.replay.guest.clone();
                if let Err(what) = env.checks.goes_live(&guest) {
                    env.fail(what);
                }
                env.checks.failovers += 1;
                for reply in outputs {
                    env.leave((id, self.host), epoch, reply, false);
                }
                let unflushed = match env.has(Defect::UnflushedLeftBehind) {
                    true => Unflushed::default(),
                    false => following.followed.take(),
                };
                let me = (id, self.host, self.me.clone());
                let disk = Client::new(me, epoch, unflushed, env);
                let runner = Runner::new((id, self.host), epoch, guest, disk, env);
                env.disk_changed = true;
                self.role = Role::Runs(Box::new(runner));
            }
            Role::Idle | Role::Joining { .. } => {}
        }
    }
}

fn run(runner: &mut Runner, timer: Timer, env: &mut Env) -> Option<live::Told> {
    match timer {
        Timer::Exit => return runner.exit(env),
        Timer::Beat(session) if runner.has_session(session) => return runner.beat(env),
        Timer::Look(session) if runner.has_session(session) => return runner.look(env),
        Timer::Linger(session) if runner.has_session(session) => runner.flush(env),
        Timer::Late => runner.late(env),
        Timer::DiskConnect(_) | Timer::DiskLook => runner.disk_timer(timer, env),
        _ => {}
    }
    None
}
