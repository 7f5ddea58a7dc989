//! A seeded simulator of ftvm's protocol.
//!
//! Hosts, a network that delays, loses and cuts, a disk server, a disk with a cache, clients that count, and an operator who
//! starts backups, all in virtual time and from one queue of events. What decides is the product's own:
//! [`ftvm_vmm::protocol`], [`ftvm_vmm::disk::scheduler`], [`logging_channel::protocol`], and the disk server's
//! [`decide`](::disk_server::arbiter::decide) and [`Rights`](::disk_server::fence::Rights). What is around it here stands for sockets, threads, the
//! processor and the guest.
//!
//! At every step is checked that
//!
//! - outputs leave one host at a time, in the order of epochs, and none is undone;
//! - what a client has the reply to is in every guest that goes live, and no guest ends while a copy of it
//!   was left alone;
//! - a backup accepts log only of the view that the disk server has with it and its primary;
//! - a backup that does not protect the guest never runs it, nor one that differs;
//! - copies are equal where the log compares them;
//! - who is not primary writes no disk: nothing of an earlier epoch after a later one was answered;
//! - whatever power cut may come, the disk keeps what its guest has flushed, and a guest reads what it wrote;
//! - a guest of which there is a copy answers again, when all faults are over.
//!
//! A schedule is drawn from its seed, and is the same every time. One that fails is run again without
//! one fault after the other, and with shorter ones, and told with those that it takes.

mod checks;
mod clock;
mod defect;
mod disk;
mod disk_server;
mod env;
mod event;
mod faults;
mod follower;
mod guest;
mod keeper;
mod live;
mod matrix;
mod message;
mod network;
mod pinger;
mod place;
mod process;
mod rule;
mod search;
mod world;

use std::fmt;

pub use defect::Defect;
pub use faults::Schedule;
use faults::{Fault, Who};
pub use matrix::Matrix;
pub use rule::Rule;
pub use search::{Bounds, Broken, Searched, VARIANTS, Variant, search};
use world::World;

/// What was seen of a schedule that kept all promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Outputs that left.
    pub outputs: u64,
    /// How often a backup went live.
    pub failovers: u64,
    /// How often a backup came to protect the guest.
    pub joins: u64,
    /// How often one was lost before.
    pub joins_cut: u64,
    /// How often a guest was handed over by plan.
    pub hand_overs: u64,
    /// How often a cold backup got the state anew.
    pub renewals: u64,
    /// How often one went on with the state before, while another one came.
    pub renewals_cut: u64,
    /// The guest was gone in the end, with the only host that had it.
    pub gone: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.outputs += other.outputs;
        self.failovers += other.failovers;
        self.joins += other.joins;
        self.joins_cut += other.joins_cut;
        self.hand_overs += other.hand_overs;
        self.renewals += other.renewals;
        self.renewals_cut += other.renewals_cut;
        self.gone += other.gone;
    }
}

/// A schedule that broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    seed: u64,
    broken: String,
    faults: Vec<String>,
    trace: Vec<String>,
}

impl Failure {
    /// The seed of the schedule.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The promise that was broken.
    #[must_use]
    pub fn broken(&self) -> &str {
        &self.broken
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.broken)?;
        writeln!(f, "with these of its faults:")?;
        for fault in &self.faults {
            writeln!(f, "    {fault}")?;
        }
        writeln!(f, "what happened, in milliseconds:")?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Runs the schedule of a seed.
///
/// # Errors
/// It broke a promise.
pub fn run(seed: u64, defect: Option<Defect>) -> Result<Seen, Box<Failure>> {
    let schedule = Schedule::new(seed);
    match tried(&schedule, defect) {
        Ok(seen) => Ok(seen),
        Err(_) => Err(Box::new(explained(schedule, defect))),
    }
}

/// Runs a calm schedule of a seed with each fault at every `step`th moment of its first join, and of the
/// failover and the join after it.
///
/// # Errors
/// One of them broke a promise.
pub fn run_moments(seed: u64, step: usize) -> Result<Seen, Box<Failure>> {
    let calm = Schedule::new(seed).with(Vec::new());
    let first = World::new(&calm, None, false).moments(1);
    let protected = first.last().copied().unwrap_or_default();
    let kill = (protected, Fault::KillHost(Who::Live));
    let second = World::new(&calm.with(vec![kill]), None, false).moments(2);
    let second = second.into_iter().filter(|at| *at > protected);
    let first = first.into_iter().map(|at| (Vec::new(), at));
    let moments = first.chain(second.map(|at| (vec![kill], at)));
    let mut seen = Seen::default();
    for (before, at) in moments.step_by(step) {
        for fault in Fault::at_moments() {
            let mut faults = before.clone();
            faults.push((at, fault));
            let schedule = calm.with(faults);
            match tried(&schedule, None) {
                Ok(one) => seen += one,
                Err(_) => return Err(Box::new(explained(schedule, None))),
            }
        }
    }
    Ok(seen)
}

fn tried(schedule: &Schedule, defect: Option<Defect>) -> Result<Seen, String> {
    let mut world = World::new(schedule, defect, false);
    let left = world.run();
    let checks = world.env.checks;
    match checks.broken {
        Some(broken) => Err(broken),
        None => Ok(Seen {
            outputs: checks.outputs,
            failovers: checks.failovers,
            joins: checks.joins,
            joins_cut: checks.joins_cut,
            hand_overs: checks.hand_overs,
            renewals: checks.renewals,
            renewals_cut: checks.renewals_cut,
            gone: u64::from(!left),
        }),
    }
}

/// The failure of a schedule, with as few faults as it takes, and as short ones.
fn explained(mut schedule: Schedule, defect: Option<Defect>) -> Failure {
    let mut number = 0;
    while number < schedule.faults.len() {
        let mut without = schedule.clone();
        without.faults.remove(number);
        if tried(&without, defect).is_err() {
            schedule = without;
        } else {
            number += 1;
        }
    }
    for number in 0..schedule.faults.len() {
        while let Some(fault) = schedule.faults[number].1.shorter() {
            let mut shorter = schedule.clone();
            shorter.faults[number].1 = fault;
            if tried(&shorter, defect).is_ok() {
                break;
            }
            schedule = shorter;
        }
    }
    let mut world = World::new(&schedule, defect, true);
    world.run();
    let faults = schedule.faults.iter();
    Failure {
        seed: schedule.seed,
        broken: world.env.checks.broken.take().unwrap_or_default(),
        faults: faults
            .map(|(at, fault)| format!("{:>8.1} ms  {fault}", at.as_secs_f64() * 1000.0))
            .collect(),
        trace: world.env.take_trace(),
    }
}
