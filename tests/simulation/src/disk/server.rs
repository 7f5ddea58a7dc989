//! The disk server's disk: the product's fence in front of a medium, and workers that take their time.

use std::collections::BTreeMap;
use std::time::Duration;

use disk_server::arbiter::{Claimant, Record, VmName};
use disk_server::fence::{Earlier, Entered, Right, Rights};
use disk_server::nbd::ExportName;
use disk_server::nbd::protocol::ErrorCode;
use ftvm_vmm::disk::DiskOp;

use super::guest::{Content, sectors};
use super::medium::{Medium, Written};
use super::wire::Item;
use crate::defect::Defect;
use crate::env::Env;
use crate::event::Event;
use crate::message::{Asked, Told};
use crate::rule::Rule;

/// How soon somebody is told to ask again, where what came before is not done.
const CLEARING: Duration = Duration::from_secs(2);

/// How soon a host finds that it has a connection that the server's machine has forgotten, at most.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A command that a worker has, or will have.
#[derive(Debug)]
struct Work {
    wire: usize,
    number: u64,
    op: DiskOp,
    has_begun: bool,
    /// It writes.
    entered: Option<Entered>,
    /// What a flush covers that has begun.
    covers: Option<Written>,
}

/// Somebody who waits for writes to be over.
#[derive(Debug)]
enum Waiter {
    /// A connection that becomes the writer's.
    Opens(usize, Right),
    /// A claim that was won: for whom, in which epoch.
    Claim(Box<Won>),
}

/// A claim that was won, and is answered behind the fence.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) asked: Asked,
    pub(crate) told: Told,
    pub(crate) epoch: u64,
    pub(crate) holder: Claimant,
}

/// The service of the disk, in one start of the disk server after the other.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) medium: Medium,
    rights: Rights,
    export: ExportName,
    /// The number of this start.
    boot: u64,
    /// What each open connection bases its writes on.
    open: BTreeMap<usize, Right>,
    work: BTreeMap<u64, Work>,
    next: u64,
    waiters: Vec<(Earlier, Duration, Waiter)>,
    /// So many of the next commands fail until then.
    errors: (u32, Duration),
    /// It is full until then.
    full: Duration,
    /// Claims that can be answered.
    answers: Vec<(Asked, Told)>,
    /// Connections that the server's machine has forgotten, and their hosts have not.
    forgotten: Vec<usize>,
    /// In whose hands the epoch is that was answered last.
    answered: (u64, Option<Claimant>),
    /// What each request wrote.
    lives: BTreeMap<u64, u64>,
}

fn vm() -> VmName {
    "guest".parse().expect("a name")
}

impl Disk {
    pub(crate) fn new(record: &Record) -> Self {
        Self {
            medium: Medium::default(),
            rights: Rights::new(vm(), record),
            export: "disk".parse().expect("a name"),
            boot: 1,
            open: BTreeMap::new(),
            work: BTreeMap::new(),
            next: 0,
            waiters: Vec::new(),
            errors: (0, Duration::ZERO),
            full: Duration::ZERO,
            answers: Vec::new(),
            forgotten: Vec::new(),
            answered: (record.epoch, record.holder.clone()),
            lives: BTreeMap::new(),
        }
    }

    /// The process is gone, and with its machine's power what was not on the medium. A worker may have
    /// got anywhere.
    pub(crate) fn crash(&mut self, with_power: bool, env: &mut Env) {
        let work = std::mem::take(&mut self.work);
        for work in work.into_values().filter(|work| work.has_begun) {
            self.write_some(&work, env);
        }
        if with_power {
            self.medium.lose_power(&mut env.rng);
            (env.disk_changed, env.disk_has_lost) = (true, true);
        }
        let opening = std::mem::take(&mut self.waiters).into_iter();
        let opening = opening.filter_map(|(_, _, waiter)| match waiter {
            Waiter::Opens(wire, _) => Some(wire),
            Waiter::Claim(_) => None,
        });
        let gone = std::mem::take(&mut self.open).into_keys().chain(opening);
        match with_power {
            true => self.forgotten.extend(gone),
            false => gone.for_each(|wire| env.send_disk(wire, Item::Gone)),
        }
    }

    /// It starts anew. Who has a connection to the machine that lost its power learns of it.
    pub(crate) fn start(&mut self, record: &Record, env: &mut Env) {
        self.rights = Rights::new(vm(), record);
        self.boot = env.rng.u64(1..);
        self.errors = (0, Duration::ZERO);
        for wire in self.forgotten.drain(..) {
            let after = env.jitter(KEEP_ALIVE);
            let item = Item::Gone;
            env.after(after, Event::Disk { wire, item });
        }
    }

    /// So many commands fail, if they come until then.
    pub(crate) fn fail(&mut self, number: u32, until: Duration) {
        self.errors = (number, until);
    }

    /// There is no room until then.
    pub(crate) fn fill(&mut self, until: Duration) {
        self.full = until;
    }

    /// Something comes over a connection.
    pub(crate) fn hear(&mut self, wire: usize, item: Item, slow: Duration, env: &mut Env) {
        match item {
            Item::Open(epoch) => match self.rights.open_writer(&self.export, epoch) {
                Ok((right, earlier)) => {
                    let waiter = Waiter::Opens(wire, right);
                    self.wait(earlier, waiter, env);
                }
                Err(refusal) => {
                    env.note(|| format!("disk server: {refusal}"));
                    env.send_disk(wire, Item::Refused);
                }
            },
            Item::Command(number, op) => {
                if !self.open.contains_key(&wire) {
                    return env.send_disk(wire, Item::Gone);
                }
                self.next += 1;
                let work = Work {
                    wire,
                    number,
                    op,
                    has_begun: false,
                    entered: None,
                    covers: None,
                };
                self.work.insert(self.next, work);
                self.plan(self.next, slow, env);
            }
            _ => {}
        }
    }

    /// A worker takes its time before it begins, and before it is done.
    fn plan(&self, work: u64, slow: Duration, env: &mut Env) {
        let most = match env.rng.u32(..8) {
            0 => Duration::from_millis(40),
            _ => Duration::from_micros(600),
        };
        let after = env.jitter(most) + env.jitter(slow);
        env.after(after, Event::DiskWork(work));
    }

    /// A worker gets on. Whether the server ends, because a flush failed.
    pub(crate) fn work(&mut self, id: u64, slow: Duration, env: &mut Env) -> bool {
        let Some(work) = self.work.get_mut(&id) else {
            return false; // of a start before
        };
        let begins = !std::mem::replace(&mut work.has_begun, true);
        if begins && work.op.modifies() {
            let right = self.open.get(&work.wire).copied();
            match right.map(|right| self.rights.enter(&self.export, right)) {
                Some(Ok(entered)) => work.entered = Some(entered),
                refused => {
                    let number = id;
                    env.note(|| format!("disk server: does not do {number}: {refused:?}"));
                    if !env.has(Defect::FenceLetsAnybodyIn)
                        && let Some(work) = self.work.remove(&id)
                    {
                        let answer = Item::Answer(work.number, Err(ErrorCode::NotPermitted));
                        env.send_disk(work.wire, answer);
                        return false;
                    }
                }
            }
            self.plan(id, slow, env);
            return false;
        }
        if begins && work.op == DiskOp::Flush {
            work.covers = Some(self.medium.written());
            if env.has(Defect::FlushAnsweredEarly) {
                let (wire, number) = (work.wire, work.number);
                env.send_disk(wire, Item::Answer(number, Ok(Vec::new())));
            }
            // It takes longer than the rest.
            self.plan(id, slow + Duration::from_millis(10), env);
            return false;
        }
        let failed = self.errors.0 > 0 && env.now < self.errors.1;
        self.errors.0 -= u32::from(failed);
        self.finish(id, failed, env)
    }

    /// A worker is done. Whether the server ends.
    fn finish(&mut self, id: u64, failed: bool, env: &mut Env) -> bool {
        let Some(work) = self.work.get_mut(&id) else {
            return false;
        };
        let (entered, covers) = (work.entered.take(), work.covers.take());
        let result = match (&work.op, failed) {
            (DiskOp::Read { .. }, false) => {
                let read = sectors(&work.op).flat_map(|sector| self.medium.read(sector).bytes());
                Ok(read.collect())
            }
            (DiskOp::Flush, false) => {
                if let Some(covers) = covers {
                    env.note(|| "disk: flushed".into());
                    self.medium.flushed(covers);
                    env.disk_changed = true;
                }
                Ok(Vec::new())
            }
            (DiskOp::Flush, true) => {
                env.note(|| "disk server: a flush fails, and it ends".into());
                self.medium.fail_flush(&mut env.rng);
                (env.disk_changed, env.disk_has_lost) = (true, true);
                return true;
            }
            (_, true) => Err(ErrorCode::Io),
            (_, false) if env.now < self.full => Err(ErrorCode::NoSpace),
            (_, false) => Ok(Vec::new()),
        };
        let Some(work) = self.work.remove(&id) else {
            return false;
        };
        match result {
            Ok(_) => self.write(&work, usize::MAX, env),
            Err(_) => self.write_some(&work, env),
        }
        if let Some(entered) = entered {
            self.rights.leave(entered);
            self.look_at_waiters(env);
        }
        env.send_disk(work.wire, Item::Answer(work.number, result));
        false
    }

    /// A write gets to some of its sectors only.
    fn write_some(&mut self, work: &Work, env: &mut Env) {
        let some = env.rng.usize(..=sectors(&work.op).len());
        self.write(work, some, env);
    }

    fn write(&mut self, work: &Work, most: usize, env: &mut Env) {
        let DiskOp::Write { data, .. } = &work.op else {
            return;
        };
        let (epoch, holder) = &self.answered;
        let by = &env.wires[work.wire].by;
        if holder.as_ref() != Some(by) {
            let what = format!(
                "{}: {by} writes the disk, and {holder:?} was told that it has epoch {epoch}",
                Rule::OnlyPrimaryActs
            );
            env.fail(what);
        }
        for (sector, content) in sectors(&work.op).zip(Content::all_of(data)).take(most) {
            let life = *self.lives.entry(content.id).or_insert(content.life);
            if life != content.life {
                let id = content.id;
                env.fail(format!(
                    "the disk has two lives: request {id} of another one was written"
                ));
            }
            let id = content.id;
            env.note(|| format!("disk: {id} in sector {sector}"));
            self.medium.write(sector, content);
        }
        env.disk_changed = true;
    }

    // Waiting for writes to be over.

    /// Claims that can be answered now.
    pub(crate) fn take_answers(&mut self) -> Vec<(Asked, Told)> {
        std::mem::take(&mut self.answers)
    }

    /// A claim was won, which is answered behind the fence.
    pub(crate) fn won(&mut self, won: Won, env: &mut Env) {
        let earlier = self.rights.advance(won.epoch, &won.holder);
        let waiter = Waiter::Claim(Box::new(won));
        if env.has(Defect::FenceDoesNotWait) {
            return self.admit(waiter, env);
        }
        self.wait(earlier, waiter, env);
    }

    fn wait(&mut self, earlier: Earlier, waiter: Waiter, env: &mut Env) {
        self.waiters.push((earlier, env.now + CLEARING, waiter));
        self.look_at_waiters(env);
    }

    fn look_at_waiters(&mut self, env: &mut Env) {
        let over = |it: &mut (Earlier, Duration, Waiter)| self.rights.is_over(it.0);
        let over: Vec<_> = self.waiters.extract_if(.., over).collect();
        for (_, until, waiter) in over {
            // What is asked again is answered then.
            if env.now < until {
                self.admit(waiter, env);
            } else if let Waiter::Opens(wire, _) = waiter {
                env.send_disk(wire, Item::NotYet);
            }
        }
    }

    fn admit(&mut self, waiter: Waiter, env: &mut Env) {
        match waiter {
            Waiter::Opens(wire, right) => {
                self.open.insert(wire, right);
                env.send_disk(wire, Item::Opened(self.boot));
            }
            Waiter::Claim(won) => {
                if won.epoch >= self.answered.0 {
                    self.answered = (won.epoch, Some(won.holder));
                }
                self.answers.push((won.asked, won.told));
            }
        }
    }
}
