//! The benchmark: what protection costs. Real programs in a guest, driven by real clients, under
//! each [`Configuration`] on the same hosts: interleaved, in several rounds, so that ratios are
//! those of pairs that were measured one shortly after the other.
//!
//! ```no_run
//! # fn main() -> Result<(), benchmark::Error> {
//! use benchmark::{Options, report, run};
//!
//! let record = run(&Options::quick(), None, |progress| eprintln!("{progress}"), |_| ())?;
//! println!("{}", report::markdown(&record, &[]));
//! # Ok(())
//! # }
//! ```

mod colo;
mod condition;
mod configuration;
mod drive;
mod host_meter;
mod machine;
mod metric;
mod outage;
mod record;
pub mod report;
mod sample;
mod schedule;
mod stage;
mod statistics;
mod window;
mod workload;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

pub use self::condition::{Axis, Condition};
pub use self::configuration::Configuration;
pub use self::machine::MachineState;
pub use self::record::{Record, RecordError};
pub use self::sample::{
    Figures, HostFigures, Latency, LogFigures, Outcome, Sample, Times, VmmFigures,
};
pub use self::workload::{GuestKind, Workload};

use clap::ValueEnum as _;

use self::drive::Driver;
use self::machine::MachineDescription;
use self::schedule::Visit;
use self::stage::{Running, Stage};

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
            configurations: Configuration::value_variants().to_vec(),
            workloads: Workload::value_variants().to_vec(),
            growth: Axis::value_variants().to_vec(),
            kills: 20,
            window: Duration::from_secs(10),
            colo_window: colo::BETWEEN_CHECKPOINTS * 3,
        }
    }

    /// What can be measured in less than ten minutes on emulated hosts.
    #[must_use]
    pub fn quick() -> Self {
        Self {
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
        match is_compared {
            true => self.window.max(self.colo_window),
            false => self.window,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hosts cannot be used.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// The earlier record cannot be gone on with.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Where a run is.
#[derive(Debug)]
pub struct Progress {
    /// What is done now, such as `round 1 of 5, ftvm alone: boot`.
    pub now: String,
    /// How long the rest will take, once that can be told.
    pub left: Option<Duration>,
    /// What was measured just now.
    pub sample: Option<Sample>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.now)?;
        match self.left {
            Some(left) => write!(f, "; about {:.0} min left", left.as_secs_f64() / 60.0),
            None => Ok(()),
        }
    }
}

/// Measures. What fails is recorded as failed, and the rest goes on.
///
/// What `earlier` has is not measured again. `keep` gets what there is whenever a guest is done
/// with, so that a run that is cut short loses little.
///
/// # Errors
///
/// When something is not set up, the hosts do not boot, or `earlier` was measured otherwise.
pub fn run(
    options: &Options,
    earlier: Option<Record>,
    progress: impl FnMut(&Progress),
    mut keep: impl FnMut(&Record),
) -> Result<Record, Error> {
    let stage = Stage::new(&options.configurations)?;
    let machine = MachineDescription::find(stage.primary(), stage.client());
    let mut record = Record::new(options, machine, stage::settings());
    if let Some(earlier) = earlier {
        record = record.resumed(earlier)?;
    }
    let mut visits = schedule::plan(options.rounds, &options.configurations, &options.workloads);
    visits.extend(schedule::growth(
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
        left: visits.iter().map(|visit| visit.measurements.len()).sum(),
        done: 0,
        began: Instant::now(),
        record,
        progress,
        restless: false,
    };
    for visit in &visits {
        if let Err(error) = bench.visit(visit) {
            log::warn!("the hosts are started anew: {}", words(&error));
            bench.stage = Stage::new(&options.configurations)?;
        }
        keep(&bench.record);
    }
    let Bench {
        stage,
        mut record,
        mut progress,
        ..
    } = bench;
    if record.samples.iter().all(|one| one.failure().is_none()) {
        stage.succeed();
    }
    let kills = options.kills;
    outage::measure(kills, &mut record, |record, kill| {
        keep(record);
        progress(&Progress {
            now: format!("failover {kill} of {kills}"),
            left: None,
            sample: None,
        });
    })?;
    Ok(record)
}

struct Bench<'a, P> {
    stage: Stage,
    options: &'a Options,
    /// Measurements that are left, and done.
    left: usize,
    done: u32,
    began: Instant,
    record: Record,
    progress: P,
    /// Whether the last measurement was disturbed however often it was made.
    restless: bool,
}

impl<P: FnMut(&Progress)> Bench<'_, P> {
    /// Boots the visit's guest, and measures all that is to be measured in it. A guest that could not
    /// go on is booted again for the next measurement.
    fn visit(&mut self, visit: &Visit) -> testbed::Result<()> {
        let gap = self.stage.gap(visit)?;
        let mut running = None;
        for measurement in &visit.measurements {
            let outcome = match &gap {
                Some(reason) => Outcome::Gap {
                    reason: reason.clone(),
                },
                None => match self.outcome(&mut running, visit, measurement)? {
                    Ok(figures) => Outcome::Measured {
                        figures: Box::new(figures),
                    },
                    Err(reason) => Outcome::Failed { reason },
                },
            };
            let sample = Sample {
                round: visit.round,
                configuration: visit.configuration,
                workload: measurement.0,
                condition: measurement.1,
                outcome,
            };
            self.record.samples.push(sample.clone());
            self.left -= 1;
            self.done += 1;
            self.tell(visit, &format!("{}: done", sample.workload), Some(sample));
        }
        running.map_or(Ok(()), |guest| self.stage.end(guest))
    }

    /// What a guest gives that is running, or is booted for it; or why it gives nothing.
    fn outcome(
        &mut self,
        running: &mut Option<Running>,
        visit: &Visit,
        measurement: &(Workload, Condition),
    ) -> testbed::Result<Result<Figures, String>> {
        let mut guest = match running.take() {
            Some(guest) => guest,
            None => {
                self.tell(visit, "boot", None);
                match self.boot(visit) {
                    Ok(guest) => guest,
                    Err(error) => {
                        return Ok(Err(format!("the guest did not boot: {}", words(&error))));
                    }
                }
            }
        };
        self.tell(visit, measurement.0.title(), None);
        match self.measure(&mut guest, visit.configuration, measurement) {
            Ok(figures) => {
                *running = Some(guest);
                Ok(Ok(figures))
            }
            Err(error) => {
                let trouble = guest.trouble();
                self.stage.end(guest)?;
                Ok(Err(trouble.unwrap_or_else(|| words(&error))))
            }
        }
    }

    fn boot(&mut self, visit: &Visit) -> testbed::Result<Running> {
        let (limit, starts) = match visit.configuration {
            Configuration::Colo => (COLO_BOOT, COLO_STARTS),
            _ => (BOOT, 1),
        };
        for _ in 1..starts {
            match self.start(visit, limit) {
                Err(testbed::Error::Timeout { .. }) => {}
                done => return done,
            }
        }
        self.start(visit, limit)
    }

    fn start(&mut self, visit: &Visit, limit: Duration) -> testbed::Result<Running> {
        let mut running = self.stage.start(visit)?;
        let driver = self.driver(1, self.options.window);
        let waited = driver.wait_for_guest(visit.guest, limit, || {
            self.stage.refuse_trouble(&mut running)
        });
        if let Err(error) = waited {
            self.stage.end(running)?;
            return Err(error);
        }
        thread::sleep(SETTLE);
        Ok(running)
    }

    /// Of several measurements, the one during which others had the least of the machine.
    fn measure(
        &mut self,
        running: &mut Running,
        configuration: Configuration,
        measurement: &(Workload, Condition),
    ) -> testbed::Result<Figures> {
        let (workload, condition) = measurement;
        let window = self.options.window(configuration, measurement);
        self.stage.disturb(condition)?;
        let once = |running: &mut Running| {
            self.measure_once(running, *workload, self.driver(condition.clients, window))
        };
        let mut best = once(running);
        // A machine that others use for longer than that only takes longer.
        for _ in 0..if self.restless { 0 } else { AGAIN } {
            let Ok(figures) = &best else { break };
            if figures.stolen() <= DISTURBED {
                break;
            }
            match once(running) {
                Ok(again) if again.stolen() >= figures.stolen() => {}
                other => best = other,
            }
        }
        let is_disturbed = |figures: &Figures| figures.stolen() > DISTURBED;
        self.restless = best.as_ref().is_ok_and(is_disturbed);
        self.stage.calm(condition)?;
        best
    }

    fn measure_once(
        &self,
        running: &mut Running,
        workload: Workload,
        driver: Driver<'_>,
    ) -> testbed::Result<Figures> {
        let prepared = driver.prepare(workload)?;
        let machine = machine::glance();
        let meters = self.stage.meters(running)?;
        let (before, seen) = if prepared.warm_up().is_zero() {
            (Stage::read(&meters), driver.run(&prepared))
        } else {
            thread::scope(|scope| {
                let before = scope.spawn(|| {
                    thread::sleep(prepared.warm_up());
                    Stage::read(&meters)
                });
                let seen = driver.run(&prepared);
                (before.join().expect("it does not panic"), seen)
            })
        };
        let (before, seen) = (before?, seen?);
        let after = Stage::read(&meters)?;
        let machine = machine::glance().since(&machine);
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

    fn tell(&mut self, visit: &Visit, what: &str, sample: Option<Sample>) {
        let (round, rounds) = (visit.round, self.options.rounds);
        let each = self.began.elapsed().checked_div(self.done);
        (self.progress)(&Progress {
            now: format!("round {round} of {rounds}, {}: {what}", visit.configuration),
            left: each.map(|each| each * self.left as u32),
            sample,
        });
    }
}

/// An error and what it comes from, in one line.
fn words(error: &testbed::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    words
}
