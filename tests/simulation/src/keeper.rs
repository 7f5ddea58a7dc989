//! Drives the owner of an epoch, as `roles::tenure` and `roles::claim` do: one question to the disk server
//! at a time, and what happens meanwhile waits for the answer to a claim.

use std::collections::VecDeque;
use std::time::Duration;

use disk_server::arbiter::{Answer, Claim, ClaimRequest, Claimant, Next};
use ftvm_vmm::protocol::epoch::{Core, Effect, Input, Task};
use ftvm_vmm::protocol::rights::{Repeat, repeats};

use crate::env::Env;
use crate::event::Timer;
use crate::message::{ProcessId, Question, Told};

/// How soon an answer is not waited for any more.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1000);
/// How often the record is looked at.
const LOOK: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A process's epoch.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) core: Core,
    me: Claimant,
    of: ProcessId,
    host: usize,
    inbox: VecDeque<Input>,
    claim: Option<OpenClaim>,
    /// The look that is under way.
    look: Option<u64>,
}

/// A claim whose answer has to be known.
#[derive(Debug)]
struct OpenClaim {
    epoch: u64,
    /// What it is claimed for; nothing where only a backup that has taken over is told of.
    next: Option<Next>,
    pause: Duration,
    /// The question that is under way.
    question: Option<u64>,
}

impl Keeper {
    pub(crate) fn new(core: Core, me: Claimant, of: ProcessId, host: usize, env: &mut Env) -> Self {
        env.timer(of, LOOK, Timer::Record);
        Self {
            core,
            me,
            of,
            host,
            inbox: VecDeque::new(),
            claim: None,
            look: None,
        }
    }

    /// Something happens. Gives what follows, now or later.
    pub(crate) fn tell(&mut self, input: Input, env: &mut Env) -> Vec<Effect> {
        self.inbox.push_back(input);
        self.drive(env)
    }

    fn drive(&mut self, env: &mut Env) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.claim.is_none() {
            while let Some(input) = self.inbox.pop_front() {
                effects.extend(self.core.take(input));
            }
            match self.core.task() {
                Task::Claim { epoch, next } => {
                    self.open(epoch, Some(next));
                    self.ask(Question::Read, env);
                }
                Task::Acknowledge(epoch) => {
                    self.open(epoch, None);
                    self.acknowledge(epoch, env);
                }
                Task::Watch { doubt } => {
                    if doubt {
                        self.look_now(env);
                    }
                    break;
                }
                Task::Nothing => break,
            }
        }
        effects
    }

    fn open(&mut self, epoch: u64, next: Option<Next>) {
        self.look = None;
        self.claim = Some(OpenClaim {
            epoch,
            next,
            pause: FIRST_PAUSE,
            question: None,
        });
    }

    fn acknowledge(&mut self, epoch: u64, env: &mut Env) {
        let holder = self.me.clone();
        self.ask(Question::Acknowledge { epoch, holder }, env);
    }

    fn ask(&mut self, question: Question, env: &mut Env) {
        let number = env.rng.u64(..);
        if let Some(claim) = &mut self.claim {
            claim.question = Some(number);
        }
        env.ask(self.of, self.host, number, question);
        env.timer(self.of, PATIENCE, Timer::Unanswered(number));
    }

    /// The record is to be looked at.
    pub(crate) fn look(&mut self, env: &mut Env) {
        env.timer(self.of, LOOK, Timer::Record);
        self.look_now(env);
    }

    fn look_now(&mut self, env: &mut Env) {
        if self.claim.is_none() && self.look.is_none() {
            let number = env.rng.u64(..);
            self.look = Some(number);
            env.ask(self.of, self.host, number, Question::Read);
            env.timer(self.of, PATIENCE, Timer::Unanswered(number));
        }
    }

    /// An answer has not come.
    pub(crate) fn unanswered(&mut self, number: u64, env: &mut Env) {
        if self.look == Some(number) {
            self.look = None;
        }
        if let Some(claim) = &mut self.claim
            && claim.question == Some(number)
        {
            claim.question = None;
            self.wait(env);
        }
    }

    fn wait(&mut self, env: &mut Env) {
        if let Some(claim) = &mut self.claim {
            claim.question = None;
            let pause = claim.pause;
            claim.pause = (pause * 2).min(LONGEST_PAUSE);
            env.timer(self.of, pause, Timer::AskAgain);
        }
    }

    pub(crate) fn ask_again(&mut self, env: &mut Env) {
        match &self.claim {
            Some(OpenClaim {
                question: None,
                epoch,
                next: None,
                ..
            }) => self.acknowledge(*epoch, env),
            Some(OpenClaim { question: None, .. }) => self.ask(Question::Read, env),
            _ => {}
        }
    }

    /// An answer comes.
    pub(crate) fn hear(&mut self, number: u64, told: Told, env: &mut Env) -> Vec<Effect> {
        if self.look == Some(number) {
            self.look = None;
            if let Told::Record(record) = told {
                return self.tell(Input::Looked(record), env);
            }
            return Vec::new();
        }
        let Some(claim) = &self.claim else {
            return Vec::new();
        };
        if claim.question != Some(number) {
            return Vec::new();
        }
        let (epoch, me) = (claim.epoch, self.me.clone());
        let Some(next) = claim.next.clone() else {
            self.claim = None;
            if let Told::Record(record) = told {
                self.inbox.push_front(Input::Acknowledged(record));
            }
            return self.drive(env);
        };
        let outcome = match told {
            Told::Record(record) => match repeats(&record, (epoch, self.core.holder()), &me, &next)
            {
                Repeat::NotYet => {
                    self.wait(env);
                    return Vec::new();
                }
                Repeat::Now => {
                    let request = ClaimRequest {
                        expected: epoch,
                        claimant: me,
                        next,
                    };
                    self.ask(Question::Claim(request), env);
                    return Vec::new();
                }
                Repeat::Lost(claim) => claim,
            },
            Told::Pinged(..) => return Vec::new(),
            Told::Claim(Answer::Won { epoch }) => Claim::Won { epoch },
            Told::Claim(Answer::Lost { epoch, holder }) => Claim::Lost { epoch, holder },
        };
        self.claim = None;
        self.inbox.push_front(Input::Claimed(outcome));
        self.drive(env)
    }
}
