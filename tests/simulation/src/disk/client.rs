//! A host's side of its guest's disk: drives the product's scheduler, as `disk::dispatch` and
//! `disk::link` do.

use std::collections::VecDeque;
use std::time::Duration;

use disk_server::arbiter::Claimant;
use ftvm_vmm::disk::link::LinkSettings;
use ftvm_vmm::disk::progress::Reached;
use ftvm_vmm::disk::scheduler::{Command, Effect, Incident, Scheduler};
use ftvm_vmm::disk::unflushed::Unflushed;
use ftvm_vmm::disk::{DiskCompletion, DiskRequest};
use logging_channel::entry::Lsn;

use super::wire::{Item, Wire};
use crate::defect::Defect;
use crate::env::Env;
use crate::event::Timer;
use crate::message::ProcessId;

/// How often it is looked which requests take too long.
const LOOK: Duration = Duration::from_millis(500);

/// A completion for the guest.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) completion: DiskCompletion,
    /// The scheduler knows that changes are lost, and the guest does not yet.
    pub(crate) is_excused: bool,
}

/// The disk of a guest that runs.
#[derive(Debug)]
pub(crate) struct Client {
    of: ProcessId,
    host: usize,
    me: Claimant,
    scheduler: Scheduler,
    /// As whose writer the next connection is opened.
    epoch: u64,
    /// The connection that is open or being opened.
    wire: Option<usize>,
    /// As whose writer that is opened.
    opens: u64,
    pause: Duration,
    /// The plan to connect that holds.
    plan: u64,
    /// Completions that the guest has not taken.
    pub(crate) done: VecDeque<Done>,
}

impl Client {
    pub(crate) fn new(
        (of, host, me): (ProcessId, usize, Claimant),
        epoch: u64,
        unflushed: Unflushed,
        env: &mut Env,
    ) -> Self {
        let timeout = env.disk_timeout;
        let mut it = Self {
            of,
            host,
            me,
            scheduler: Scheduler::new(Some(epoch), unflushed, env.backup_reads, timeout),
            epoch,
            wire: None,
            opens: epoch,
            pause: LinkSettings::default().first_pause,
            plan: 0,
            done: VecDeque::new(),
        };
        env.timer(of, LOOK, Timer::DiskLook);
        it.connect(env);
        it
    }

    pub(crate) fn submit(&mut self, request: DiskRequest, commit: Option<Lsn>, env: &mut Env) {
        self.scheduler.submit(request, commit);
        self.perform(env);
    }

    /// The completion of a read that is held is in the log: there, if the backup is to read.
    pub(crate) fn logged(&mut self, id: u64, shared: Option<Lsn>, env: &mut Env) {
        self.scheduler.logged(id, shared);
        self.perform(env);
    }

    /// How far the log has come.
    pub(crate) fn reached(&mut self, reached: Reached, env: &mut Env) {
        self.scheduler.reached(reached);
        self.perform(env);
    }

    pub(crate) fn look(&mut self, env: &mut Env) {
        env.timer(self.of, LOOK, Timer::DiskLook);
        let now = env.instant(self.host);
        self.scheduler.look(now);
        self.perform(env);
    }

    fn connect(&mut self, env: &mut Env) {
        self.opens = self.epoch;
        let wire = Wire::new(self.of, self.host, self.me.clone());
        self.wire = Some(env.open_wire(wire));
        self.send(Item::Open(self.opens), env);
        self.plan += 1;
        let patience = LinkSettings::default().connect_timeout;
        env.timer(self.of, patience, Timer::DiskConnect(self.plan));
    }

    fn send(&mut self, item: Item, env: &mut Env) {
        if let Some(wire) = self.wire {
            env.send_disk(wire, item);
        }
    }

    /// There is no connection: another one is opened later.
    fn hang_up(&mut self, env: &mut Env) {
        self.wire = None;
        self.plan += 1;
        env.timer(self.of, self.pause, Timer::DiskConnect(self.plan));
        let longest = LinkSettings::default().longest_pause;
        self.pause = (self.pause * 2).min(longest);
    }

    /// It is time to connect, or no connection came about.
    pub(crate) fn connect_due(&mut self, plan: u64, env: &mut Env) {
        if plan == self.plan {
            match self.wire {
                Some(_) => self.hang_up(env),
                None => self.connect(env),
            }
        }
    }

    /// Something comes from the server. Whether that makes this host doubt its right.
    pub(crate) fn hear(&mut self, wire: usize, item: Item, env: &mut Env) -> bool {
        if self.wire != Some(wire) {
            return false;
        }
        let now = env.instant(self.host);
        match item {
            Item::Opened(boot) => {
                self.plan += 1;
                self.pause = LinkSettings::default().first_pause;
                let boot = match env.has(Defect::UnflushedForgotten) {
                    true => 1,
                    false => boot,
                };
                self.scheduler.connected(Some(self.opens), Some(boot));
            }
            Item::Answer(number, result) => self.scheduler.answered(number, result, now),
            Item::Refused | Item::NotYet => {
                self.hang_up(env);
                return matches!(item, Item::Refused) && self.opens == self.epoch;
            }
            Item::Gone => {
                self.scheduler.disconnected();
                self.hang_up(env);
            }
            Item::Open(_) | Item::Command(..) => {}
        }
        self.perform(env)
    }

    /// Does what follows. Whether that makes this host doubt its right.
    fn perform(&mut self, env: &mut Env) -> bool {
        let now = env.instant(self.host);
        let mut doubts = false;
        loop {
            while let Some(effect) = self.scheduler.effect() {
                match effect {
                    Effect::Complete(completion, _) => self.done.push_back(Done {
                        completion,
                        is_excused: self.scheduler.is_lost(),
                    }),
                    Effect::Disconnect | Effect::HangUp => self.hang_up(env),
                    Effect::Reopen(epoch) => {
                        self.epoch = epoch;
                        if self.wire.is_none() {
                            self.connect(env);
                        }
                    }
                    Effect::Tell(incident) => {
                        let of = self.of;
                        if !matches!(incident, Incident::Writes | Incident::HasRoom) {
                            env.note(|| format!("{of}: disk: {incident:?}"));
                        }
                        doubts |= incident == Incident::Refused;
                    }
                }
            }
            let Some((number, command)) = self.scheduler.command(now) else {
                return doubts;
            };
            if let Command::Again(request) = &command {
                let (of, id) = (self.of, request.id);
                env.note(|| format!("{of}: disk: makes request {id} again"));
            }
            self.send(Item::Command(number, command.op().clone()), env);
        }
    }
}
