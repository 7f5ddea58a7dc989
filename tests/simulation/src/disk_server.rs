//! The disk server's record and its view service: its own decisions, and answers that may not come.

use std::time::Duration;

use disk_server::arbiter::{Answer, ClaimRequest, Record, acknowledge, decide};
use disk_server::views::{PING_INTERVAL, Views};

use crate::defect::Defect;
use crate::env::Env;
use crate::event::Event;
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

#[derive(Debug, Default)]
pub(crate) struct DiskServer {
    pub(crate) record: Record,
    /// Gone with each run.
    views: Views,
    /// Each run is another one: what an earlier one had in hand is gone with it.
    pub(crate) run: u64,
    pub(crate) down: u32,
    pub(crate) slow: Duration,
    /// Ways that take nothing: from a host, and to it.
    pub(crate) cut: [[u32; 2]; HOSTS],
}

impl DiskServer {
    /// One that has this record.
    pub(crate) fn new(record: Record) -> Self {
        Self {
            record,
            ..Self::default()
        }
    }

    /// It goes down, and comes back with its record only.
    pub(crate) fn crash(&mut self) {
        self.down += 1;
        self.run += 1;
        self.views = Views::new();
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
                        let record = |_: &_| self.record.clone();
                        let proposal = self.views.ping(ping, address(asked.host), record);
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
                            self.record = new;
                        }
                        Told::Claim(answer)
                    }
                };
                if self.cut[asked.host][1] == 0 {
                    let after = env.disk_server_latency();
                    let Asked { by, number, .. } = asked;
                    env.after(
                        after,
                        Event::Told {
                            to: by,
                            number,
                            told,
                        },
                    );
                }
            }
            Stage::Decided => {}
        }
    }
}
