//! The disk server's record and its view service: its own decisions, and answers that may not come.

use std::time::Duration;

use disk_server::arbiter::{Answer, ClaimRequest, Record, VmName, acknowledge, decide};
use disk_server::views::{PING_INTERVAL, Views};

use crate::defect::Defect;
use crate::disk::server::{Disk, Won};
use crate::disk::wire::Item;
use crate::env::Env;
use crate::event::{End, Event};
use crate::faults::HOSTS;
use crate::message::{Asked, Question, Stage, Told};
use crate::pinger::address;

/// **Decides for whoever asks first.**
pub(crate) fn to_anybody(record: &Record, request: &ClaimRequest) -> (Answer, Option<Record>) {
    let (answer, new) = decide(record, request);
    if new.is_some() || record.epoch != request.expected {
        return (answer, new);
    }
    let epoch = record.epoch + 1;
    let new = Record::held(epoch, request.holder());
    (Answer::Won { epoch }, Some(new))
}

#[derive(Debug)]
pub(crate) struct DiskServer {
    pub(crate) record: Record,
    /// Gone with each run.
    views: Views,
    /// Each run is another one: what an earlier one had in hand is gone with it.
    pub(crate) run: u64,
    pub(crate) down: u32,
    /// Its machine has no power.
    off: u32,
    pub(crate) disk: Disk,
    pub(crate) slow: Duration,
    /// Ways that take nothing: from a host, and to it.
    pub(crate) cut: [[u32; 2]; HOSTS],
}

impl DiskServer {
    /// One that has this record.
    pub(crate) fn new(record: Record) -> Self {
        Self {
            disk: Disk::new(&record),
            record,
            views: Views::new(),
            run: 0,
            down: 0,
            off: 0,
            slow: Duration::ZERO,
            cut: Default::default(),
        }
    }

    /// Its process is killed, perhaps with its machine's power: it comes back with what it has stored only.
    pub(crate) fn crash(&mut self, with_power: bool, env: &mut Env) {
        self.down += 1;
        self.off += u32::from(with_power);
        self.run += 1;
        self.views = Views::new();
        self.disk.crash(with_power, env);
    }

    /// It is started again, unless something else keeps it down.
    pub(crate) fn start(&mut self, with_power: bool, env: &mut Env) {
        self.down -= 1;
        self.off -= u32::from(with_power);
        if self.down == 0 {
            self.disk.start(&self.record, env);
        }
    }

    /// Whether its machine has no power.
    pub(crate) fn is_off(&self) -> bool {
        self.off > 0
    }

    /// Something comes over a connection to the disk.
    pub(crate) fn hear_disk(&mut self, wire: usize, item: Item, env: &mut Env) {
        if self.down > 0 {
            return env.send_disk(wire, Item::Gone);
        }
        self.disk.hear(wire, item, self.slow, env);
        self.answer(env);
    }

    /// A worker of the disk's gets on.
    pub(crate) fn work(&mut self, work: u64, env: &mut Env) {
        if self.disk.work(work, self.slow, env) {
            // Somebody starts it again.
            self.crash(false, env);
            let after = Duration::from_millis(20) + env.jitter(Duration::from_millis(500));
            env.after(after, Event::Over(End::DiskServerDown));
        }
        self.answer(env);
    }

    fn answer(&mut self, env: &mut Env) {
        for (asked, told) in self.disk.take_answers() {
            self.tell(&asked, told, env);
        }
    }

    fn tell(&self, asked: &Asked, told: Told, env: &mut Env) {
        if self.cut[asked.host][1] == 0 {
            let after = env.disk_server_latency();
            let (to, number) = (asked.by, asked.number);
            env.after(after, Event::Told { to, number, told });
        }
    }

    /// An interval of the view service is over.
    pub(crate) fn interval(&mut self, env: &mut Env) {
        env.after(PING_INTERVAL, Event::Interval);
        if self.down == 0 {
            self.views.tick();
        }
    }

    /// A question has got somewhere.
    pub(crate) fn step(&mut self, asked: Asked, stage: Stage, run: u64, env: &mut Env) {
        if self.down > 0 {
            return;
        }
        match stage {
            Stage::Comes => {
                if self.cut[asked.host][0] > 0 {
                    return;
                }
                let after = env.jitter(Duration::from_micros(300)) + self.slow;
                let (stage, run) = (Stage::Decided, self.run);
                env.after(after, Event::Asked { asked, stage, run });
            }
            Stage::Decided if run == self.run => {
                let told = match &asked.question {
                    Question::Ping(ping) => {
                        let record = |_: &VmName| self.record.clone();
                        let proposal = self.views.ping(ping, address(asked.host), record);
                        let proposal = proposal.expect("few hosts");
                        Told::Pinged(self.record.clone(), proposal)
                    }
                    Question::Read => Told::Record(self.record.clone()),
                    Question::Acknowledge { epoch, holder } => {
                        if let Some(new) = acknowledge(&self.record, *epoch, holder) {
                            self.record = new;
                        }
                        Told::Record(self.record.clone())
                    }
                    Question::Claim(request) => {
                        let (answer, new) = match env.has(Defect::AnybodyClaims) {
                            true => to_anybody(&self.record, request),
                            false => decide(&self.record, request),
                        };
                        if let Some(new) = new {
                            env.note(|| format!("disk server: {new:?}"));
                            if let Err(what) = env.checks.moves_on(&self.record, &new) {
                                env.fail(what);
                            }
                            self.record = new;
                        }
                        if let Answer::Won { epoch } = answer {
                            let holder = request.holder();
                            let told = Told::Claim(answer);
                            let won = Won {
                                asked,
                                told,
                                epoch,
                                holder,
                            };
                            self.disk.won(won, env);
                            return self.answer(env);
                        }
                        Told::Claim(answer)
                    }
                };
                self.tell(&asked, told, env);
            }
            Stage::Decided => {}
        }
    }
}
