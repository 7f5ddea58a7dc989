//! The benchmark: what protection costs. Real programs in a guest, driven by real clients, under
//! each [`Configuration`] on the same hosts: interleaved, in several rounds, so that ratios are
//! those of pairs that were measured one shortly after the other.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use benchmark::{Options, run};
//!
//! let record = run(&Options::quick(), None, |progress| eprintln!("{progress}"), |_| ())?;
//! println!("{}", record.to_markdown(&[]));
//! # Ok(())
//! # }
//! ```

mod colo;
mod compare;
mod condition;
mod configuration;
mod drive;
mod host_meter;
mod machine_description;
mod machine_state;
mod outage;
mod record;
mod report;
mod sample;
mod schedule;
mod stage;
mod statistics;
mod window;
mod workload;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

pub use self::compare::{Change, Comparison};
pub use self::condition::{Axis, Condition};
pub use self::configuration::{Configuration, UnknownName};
pub use self::machine_description::MachineDescription;
pub use self::machine_state::MachineState;
pub use self::outage::Outage;
pub use self::record::{Record, RecordError};
pub use self::report::Plot;
pub use self::sample::{
    Figures, HostFigures, Latency, LogFigures, Metric, Outcome, Sample, Times, VmmFigures,
};
pub use self::schedule::{Estimate, Step, Visit, growth, plan};
pub use self::statistics::{Counts, Summary, ratios};
pub use self::workload::{GuestKind, Workload};

use self::drive::Driver;
use self::stage::{Running, Stage};
use testbed::{Error, Result};

/// A guest's boot, on an emulated host, on a busy machine.
const BOOT: Duration = Duration::from_secs(400);
/// The same under QEMU COLO. One whose two guests never send the same lets frames out at checkpoints
/// only, and stays like that (seen once in some fifty starts): it is started again.
const COLO_BOOT: Duration = Duration::from_secs(120);
/// How often.
const COLO_STARTS: u32 = 4;
/// Between a guest's boot and the first measurement: what init started in the background ends.
const SETTLE: Duration = Duration::from_secs(2);

/// A measurement during which others had more than this part of the machine's processors is made
/// again.
const DISTURBED: f64 = 0.05;
/// How often; not at all after one that stayed disturbed all the same, until one is not.
const AGAIN: u32 = 2;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often each is measured.
    pub rounds: u32,
    /// Under what.
    pub configurations: Vec<Configuration>,
    /// What.
    pub workloads: Vec<Workload>,
    /// Along what growth is measured.
    pub growth: Vec<Axis>,
    /// How often the primary's host is killed.
    pub kills: u32,
    /// How long a measurement takes.
    pub window: Duration,
    /// How long one takes of those that compare QEMU COLO, with its checkpoints, to `ftvm`.
    pub colo_window: Duration,
}

impl Options {
    /// Everything, in so many rounds.
    #[must_use]
    pub fn full(rounds: u32) -> Self {
        Self {
            rounds,
            configurations: Configuration::ALL.to_vec(),
            workloads: Workload::ALL.to_vec(),
            growth: Axis::ALL.to_vec(),
            kills: 20,
            window: Duration::from_secs(10),
            colo_window: colo::BETWEEN_CHECKPOINTS * 3,
        }
    }

    /// What can be measured in less than ten minutes on emulated hosts.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            // Those of the guest without a disk; a GET is a SET as far as a VMM is concerned.
            workloads: vec![
                Workload::Idle,
                Workload::RedisSet,
                Workload::RedisSetPipelined,
                Workload::NetworkReceive,
                Workload::NetworkTransmit,
                Workload::Compute,
            ],
            growth: Vec::new(),
            kills: 0,
            window: Duration::from_secs(5),
            colo_window: Duration::ZERO,
            ..Self::full(1)
        }
    }

    /// How long this takes. A guest under QEMU COLO stands still at checkpoints, and what they take
    /// on the channel counts: where the two are compared, there have to be some.
    fn window(
        &self,
        configuration: Configuration,
        (workload, condition): &(Workload, Condition),
    ) -> Duration {
        let is_compared = configuration == Configuration::Colo
            && workload.asks_one_at_a_time()
            && condition.is_usual();
        if is_compared {
            self.window.max(self.colo_window)
        } else {
            self.window
        }
    }
}

/// What a guest is made to do, and for how long.
#[derive(Debug, Clone, Copy)]
struct Load {
    workload: Workload,
    clients: u32,
    window: Duration,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// From 1.
    pub round: u32,
    /// Of so many.
    pub rounds: u32,
    /// What is done now.
    pub step: Step,
    /// How long the rest will take.
    pub left: Duration,
    /// What was measured just now.
    pub sample: Option<Sample>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.left.as_secs_f64() / 60.0;
        write!(f, "round {} of {}, ", self.round, self.rounds)?;
        match self.step {
            Step::Boot(configuration, _) => write!(f, "{configuration}: boot")?,
            Step::Measure(configuration, workload) => write!(f, "{configuration}: {workload}")?,
            Step::Kill => write!(f, "a failover")?,
        }
        write!(f, "; about {minutes:.1} min left")
    }
}

/// Measures. What fails is recorded as failed, and the rest goes on.
///
/// What `earlier` has is not measured again. `keep` gets what there is whenever a guest is done
/// with, so that a run that is cut short loses little.
///
/// # Errors
///
/// When something is not set up, or the hosts do not boot.
pub fn run(
    options: &Options,
    earlier: Option<Record>,
    progress: impl FnMut(&Progress),
    mut keep: impl FnMut(&Record),
) -> Result<Record> {
    let stage = Stage::new(&options.configurations)?;
    let machine = MachineDescription::find(stage.primary(), stage.client());
    let mut record = Record::new(options, machine, Vec::new());
    if let Some(earlier) = earlier {
        record = record
            .resumed(earlier)
            .map_err(|differences| Error::OtherRun { differences })?;
    }
    let mut visits = plan(options.rounds, &options.configurations, &options.workloads);
    visits.extend(growth(
        options.rounds,
        &options.configurations,
        &options.growth,
    ));
    for visit in &mut visits {
        let mut left = std::mem::take(&mut visit.measurements);
        left.retain(|measurement| !record.has(visit, measurement));
        visit.measurements = left;
    }
    visits.retain(|visit| !visit.measurements.is_empty());

    let mut bench = Bench {
        stage,
        options,
        estimate: Estimate::new(options.window),
        record,
        progress,
        restless: false,
    };
    for number in 0..visits.len() {
        if let Err(error) = bench.visit(&visits[number..]) {
            log::warn!("the hosts are started anew: {}", words(&error));
            bench.stage = Stage::new(&options.configurations)?;
        }
        keep(&bench.record);
    }
    let Bench {
        stage,
        mut record,
        mut estimate,
        mut progress,
        ..
    } = bench;
    let failed = |sample: &Sample| matches!(sample.outcome, Outcome::Failed { .. });
    if !record.samples.iter().any(failed) {
        stage.succeed();
    }
    let mut began = Instant::now();
    outage::measure(options.kills, &mut record, |record, kill| {
        if kill > 1 {
            keep(record);
            estimate.note(Step::Kill, began.elapsed());
        }
        began = Instant::now();
        progress(&Progress {
            round: kill,
            rounds: options.kills,
            step: Step::Kill,
            left: estimate.kills(options.kills - kill + 1),
            sample: None,
        });
    })?;
    Ok(record)
}

struct Bench<'a, P> {
    stage: Stage,
    options: &'a Options,
    estimate: Estimate,
    record: Record,
    progress: P,
    /// Whether the last measurement was disturbed however often it was made.
    restless: bool,
}

impl<P: FnMut(&Progress)> Bench<'_, P> {
    /// Boots the first visit's guest, and measures all that is to be measured in it. A guest that
    /// could not go on is booted again for the next measurement.
    fn visit(&mut self, visits: &[Visit]) -> Result<()> {
        let visit = &visits[0];
        let steps: Vec<Step> = visit.steps().collect();
        self.tell(visits, 0, None);
        if let Some(reason) = self.stage.gap(visit)? {
            for measurement in &visit.measurements {
                let reason = reason.clone();
                let gap = sample(visit, measurement, Outcome::Gap { reason });
                self.record.add(gap);
            }
            return Ok(());
        }
        let (mut running, mut last) = (None, None);
        for (number, measurement) in visit.measurements.iter().enumerate() {
            let guest = match running.take() {
                Some(running) => Ok(running),
                None => {
                    let began = Instant::now();
                    let booted = self.boot(visit);
                    if booted.is_ok() {
                        self.estimate.note(steps[0], began.elapsed());
                    }
                    booted
                }
            };
            self.tell(visits, number + 1, last.take());
            let outcome = match guest {
                Err(error) => Outcome::Failed {
                    reason: format!("the guest did not boot: {}", words(&error)),
                },
                Ok(mut guest) => {
                    let began = Instant::now();
                    match self.measure(&mut guest, visit.configuration, measurement) {
                        Ok(figures) => {
                            self.estimate.note(steps[number + 1], began.elapsed());
                            running = Some(guest);
                            Outcome::Measured {
                                figures: Box::new(figures),
                            }
                        }
                        Err(error) => {
                            let trouble = guest.trouble();
                            self.stage.end(guest)?;
                            Outcome::Failed {
                                reason: trouble.unwrap_or_else(|| words(&error)),
                            }
                        }
                    }
                }
            };
            let made = sample(visit, measurement, outcome);
            self.record.add(made.clone());
            last = Some(made);
        }
        self.tell(visits, steps.len(), last);
        match running {
            Some(running) => self.stage.end(running),
            None => Ok(()),
        }
    }

    fn boot(&mut self, visit: &Visit) -> Result<Running> {
        let (limit, starts) = match visit.configuration {
            Configuration::Colo => (COLO_BOOT, COLO_STARTS),
            _ => (BOOT, 1),
        };
        for _ in 1..starts {
            match self.start(visit, limit) {
                Err(Error::Timeout { .. }) => {}
                done => return done,
            }
        }
        self.start(visit, limit)
    }

    fn start(&mut self, visit: &Visit, limit: Duration) -> Result<Running> {
        let mut running = self.stage.start(visit)?;
        let waited = self
            .driver(1, self.options.window)
            .wait_for_guest(visit.guest, limit, || {
                self.stage.refuse_trouble(&mut running)
            });
        if let Err(error) = waited {
            self.stage.end(running)?;
            return Err(error);
        }
        thread::sleep(SETTLE);
        Ok(running)
    }

    fn measure(
        &mut self,
        running: &mut Running,
        configuration: Configuration,
        measurement: &(Workload, Condition),
    ) -> Result<Figures> {
        let (workload, condition) = measurement;
        let load = Load {
            workload: *workload,
            clients: condition.clients,
            window: self.options.window(configuration, measurement),
        };
        self.stage.disturb(condition)?;
        let measured = self.measure_again_if_disturbed(running, &load);
        self.stage.calm(condition)?;
        measured
    }

    /// Of several measurements, the one during which others had the least of the machine.
    fn measure_again_if_disturbed(
        &mut self,
        running: &mut Running,
        load: &Load,
    ) -> Result<Figures> {
        let mut best = self.measure_once(running, load)?;
        // A machine that others use for longer than that only takes longer.
        let again = if self.restless { 0 } else { AGAIN };
        for _ in 0..again {
            if best.stolen() <= DISTURBED {
                break;
            }
            let again = self.measure_once(running, load)?;
            if again.stolen() < best.stolen() {
                best = again;
            }
        }
        self.restless = best.stolen() > DISTURBED;
        Ok(best)
    }

    fn measure_once(&self, running: &mut Running, load: &Load) -> Result<Figures> {
        let driver = self.driver(load.clients, load.window);
        let prepared = driver.prepare(load.workload)?;
        let machine = machine_state::glance();
        let meters = self.stage.meters(running)?;
        let (before, seen) = if prepared.warm_up().is_zero() {
            (Stage::read(&meters)?, driver.run(&prepared)?)
        } else {
            let mut before = None;
            let seen = thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(prepared.warm_up());
                    before = Some(Stage::read(&meters));
                });
                driver.run(&prepared)
            });
            (before.expect("its thread has ended")?, seen?)
        };
        let after = Stage::read(&meters)?;
        let machine = machine_state::glance().since(&machine);
        self.stage.refuse_trouble(running)?;
        let [primary, backup] = Stage::figures(&before, &after);
        Ok(Figures {
            seconds: (seen.to - seen.from).as_secs_f64(),
            throughput: seen.throughput,
            latency: seen.latency,
            vmm: running.figures(seen.from, seen.to),
            primary,
            backup,
            machine: Some(machine),
        })
    }

    fn driver(&self, clients: u32, window: Duration) -> Driver<'_> {
        Driver {
            client: self.stage.client(),
            scratch: self.stage.logs(),
            window,
            clients,
        }
    }

    /// Tells that `done` steps of the first visit are over.
    fn tell(&mut self, visits: &[Visit], done: usize, sample: Option<Sample>) {
        let visit = &visits[0];
        let step = visit.steps().nth(done).or(visit.steps().last());
        (self.progress)(&Progress {
            round: visit.round,
            rounds: self.options.rounds,
            step: step.expect("a visit has steps"),
            left: self.estimate.left(visits, done) + self.estimate.kills(self.options.kills),
            sample,
        });
    }
}

/// What came of a measurement of a visit.
fn sample(visit: &Visit, measurement: &(Workload, Condition), outcome: Outcome) -> Sample {
    Sample {
        round: visit.round,
        configuration: visit.configuration,
        workload: measurement.0,
        condition: measurement.1,
        outcome,
    }
}

/// An error and what it comes from, in one line.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    words
}
