//! The benchmark: what protection costs. Real programs in a guest, driven by real clients, under
//! each [`Configuration`] on the same hosts: interleaved, in several rounds, so that ratios are
//! those of pairs that were measured one shortly after the other.
//!
//! ```no_run
//! # fn main() -> Result<(), benchmark::Error> {
//! use benchmark::{Options, report, run};
//!
//! let record = run(&Options::quick(), None, |now, _| eprintln!("{now}"), |_| ())?;
//! println!("{}", report::markdown(&record, &[]));
//! # Ok(())
//! # }
//! ```

mod colo;
mod configuration;
mod drive;
mod figures;
mod host_meter;
mod outage;
mod record;
pub mod report;
mod sample;
mod settings;
mod stage;
mod statistics;
mod window;
mod workload;

use std::io;
use std::iter::successors;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use self::configuration::Configuration;
pub use self::figures::Figures;
pub use self::record::Record;
pub use self::sample::{Axis, Sample, Subject};
pub use self::workload::{GuestKind, Workload};

use clap::ValueEnum as _;

use self::drive::Driver;
use self::stage::{Running, Stage};

/// A guest's boot, on an emulated host, on a busy machine.
const BOOT: Duration = Duration::from_secs(400);
/// Between a guest's boot and the first measurement: what init started in the background ends.
const SETTLE: Duration = Duration::from_secs(2);
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
    fn window(&self, subject: &Subject) -> Duration {
        let is_one_at_a_time = subject.workload.asks_one_at_a_time() && subject.growth.is_none();
        match subject.configuration {
            Configuration::Colo if is_one_at_a_time => self.window.max(self.colo_window),
            _ => self.window,
        }
    }
}

/// Why nothing was measured, or there is no record of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hosts cannot be used, or a file.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// A file is something else than a record.
    #[error(
        "{path} is no record of this version of the benchmark, {}: give a `report.json` that it \
         wrote, or measure again",
        record::VERSION
    )]
    Contents {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The earlier record cannot be gone on with.
    #[error("it was measured elsewhere or otherwise, so nothing can be added to it: {0}")]
    Otherwise(String),
}

impl Error {
    /// That a file cannot be read or written.
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Testbed(testbed::Error::File { path, source })
    }
}

/// Measures. What fails is recorded as failed, and the rest goes on.
///
/// What `earlier` has is not measured again. `progress` gets what is done now, such as `round 1, ftvm
/// alone, Redis SET: boot`, with the time left once that can be told, and what was measured just now.
/// `keep` gets what there is whenever a guest is done with, so that a run that is cut short loses
/// little.
///
/// # Errors
///
/// When something is not set up, the hosts do not boot, or `earlier` was measured otherwise.
pub fn run(
    options: &Options,
    earlier: Option<Record>,
    progress: impl FnMut(&str, Option<&Sample>),
    mut keep: impl FnMut(&Record),
) -> Result<Record, Error> {
    let stage = Stage::new(&options.configurations)?;
    let mut record = Record::new(settings::find(options, &stage.a, stage.testbed.client()));
    if let Some(earlier) = earlier {
        record = record.resumed(earlier)?;
    }
    let mut subjects = sample::plan(options);
    subjects.retain(|subject| !record.has(subject));
    let mut bench = Bench {
        stage,
        options,
        left: subjects.len() as u32,
        done: 0,
        began: Instant::now(),
        record,
        progress,
    };
    for visit in subjects.chunk_by(Subject::shares_guest_with) {
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
    if record.samples.iter().all(|one| one.outcome.is_ok()) {
        stage.testbed.succeed();
    }
    let kills = options.kills;
    outage::measure(kills, &mut record, |record, kill| {
        keep(record);
        progress(&format!("failover {kill} of {kills}"), None);
    })?;
    Ok(record)
}

struct Bench<'a, P> {
    stage: Stage,
    options: &'a Options,
    /// Measurements that are left, and done.
    left: u32,
    done: u32,
    began: Instant,
    record: Record,
    progress: P,
}

impl<P: FnMut(&str, Option<&Sample>)> Bench<'_, P> {
    /// Boots a guest, and measures all that is to be measured in it. One that could not go on is
    /// booted again for the next measurement.
    fn visit(&mut self, subjects: &[Subject]) -> testbed::Result<()> {
        let mut running: Option<Running> = None;
        for &subject in subjects {
            let what = if running.is_some() {
                "measured"
            } else {
                "boot"
            };
            self.tell(&subject, what, None);
            let booted = running.take().map_or_else(|| self.boot(&subject), Ok);
            let outcome = match booted {
                Err(error) => Err(format!("the guest did not boot: {}", words(&error))),
                Ok(mut guest) => match self.measure(&mut guest, &subject) {
                    Ok(figures) => {
                        running = Some(guest);
                        Ok(figures)
                    }
                    Err(error) => {
                        let trouble = guest.trouble();
                        self.stage.end(guest)?;
                        Err(trouble.unwrap_or_else(|| words(&error)))
                    }
                },
            };
            let sample = Sample { subject, outcome };
            self.left -= 1;
            self.done += 1;
            self.tell(&subject, "done", Some(&sample));
            self.record.samples.push(sample);
        }
        running.map_or(Ok(()), |guest| self.stage.end(guest))
    }

    /// Boots a guest, and waits until its services answer.
    fn boot(&mut self, subject: &Subject) -> testbed::Result<Running> {
        let mut running = self
            .stage
            .start(subject.configuration, subject.workload.guest())?;
        let driver = self.driver(subject);
        let waited = driver.wait_for_guest(BOOT, || self.stage.refuse_trouble(&mut running));
        if let Err(error) = waited {
            self.stage.end(running)?;
            return Err(error);
        }
        thread::sleep(SETTLE);
        Ok(running)
    }

    fn measure(&mut self, running: &mut Running, subject: &Subject) -> testbed::Result<Figures> {
        self.stage.disturb(subject.growth)?;
        let figures = self.measure_now(running, subject);
        self.stage.calm(subject.growth)?;
        figures
    }

    fn measure_now(&self, running: &mut Running, subject: &Subject) -> testbed::Result<Figures> {
        let driver = self.driver(subject);
        let amount = driver.prepare()?;
        let ticks = settings::processor_ticks();
        let meters = self.stage.meters(running)?;
        let warm_up = driver.warm_up();
        let (before, seen) = if warm_up.is_zero() {
            (Stage::read(&meters), driver.run(amount))
        } else {
            thread::scope(|scope| {
                let before = scope.spawn(|| {
                    thread::sleep(warm_up);
                    Stage::read(&meters)
                });
                let seen = driver.run(amount);
                (before.join().expect("it does not panic"), seen)
            })
        };
        let (before, seen) = (before?, seen?);
        let after = Stage::read(&meters)?;
        let others = ticks.zip(settings::processor_ticks());
        self.stage.refuse_trouble(running)?;

        let mut figures = seen.figures;
        figures.insert("seconds".to_owned(), (seen.to - seen.from).as_secs_f64());
        if let Some((before, after)) = others {
            let [all, steal] = [0, 1].map(|at: usize| after[at].saturating_sub(before[at]) as f64);
            figures.insert(figures::STEAL.to_owned(), steal / all.max(1.0));
        }
        figures.extend(running.figures(seen.from, seen.to));
        for (side, (before, after)) in ["primary", "backup"].iter().zip(before.iter().zip(&after)) {
            figures.extend(after.since(before, side));
        }
        figures::derive(subject.configuration, subject.workload, &mut figures);
        Ok(figures)
    }

    fn driver(&self, subject: &Subject) -> Driver<'_> {
        Driver {
            client: self.stage.testbed.client(),
            scratch: self.stage.testbed.logs(),
            workload: subject.workload,
            window: self.options.window(subject),
            clients: subject.clients(),
        }
    }

    fn tell(&mut self, subject: &Subject, what: &str, sample: Option<&Sample>) {
        let mut now = format!("{subject}: {what}");
        if let Some(each) = self.began.elapsed().checked_div(self.done) {
            let minutes = (each * self.left).as_secs_f64() / 60.0;
            now.push_str(&format!("; about {minutes:.0} min left"));
        }
        (self.progress)(&now, sample);
    }
}

/// An error and what it comes from, in one line.
fn words(error: &testbed::Error) -> String {
    let all = successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    });
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
