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

mod bound;
mod colo;
mod configuration;
mod drive;
mod figures;
mod host_meter;
pub mod micro;
mod options;
mod outage;
mod qmp;
mod record;
pub mod report;
mod sample;
mod settings;
mod stage;
mod statistics;
mod table;
mod transfer;
mod window;
mod workload;

use std::iter::successors;
use std::thread;
use std::time::{Duration, Instant};

use testbed::failover::{self, Failovers};

pub use self::configuration::Configuration;
pub use self::figures::Figures;
pub use self::options::Options;
pub use self::record::{Error, Record};
pub use self::sample::{Axis, Sample, Subject};
pub use self::workload::{GuestKind, Workload};

use self::drive::{Driver, Load};
use self::outage::Outage;
use self::stage::{Running, Stage};
use self::transfer::Transfer;

/// A guest's boot, on an emulated host, on a busy machine.
const BOOT: Duration = Duration::from_secs(400);
/// Between a guest's boot and the first measurement: what init started in the background ends.
const SETTLE: Duration = Duration::from_secs(2);

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
    let mut subjects = options.subjects();
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
    measure_outages(kills, &mut record, |record, kill| {
        keep(record);
        progress(&format!("failover {kill} of {kills}"), None);
    })?;
    Ok(record)
}

/// Kills the primary's host until the record has so many outages, at random moments, with the default
/// heartbeat timeout. Before each kill, `progress` gets the record and the kill's number. A failover
/// that does not go well is an outage with a reason.
fn measure_outages(
    kills: u32,
    record: &mut Record,
    mut progress: impl FnMut(&Record, u32),
) -> testbed::Result<()> {
    let done = record.outages.len() as u32;
    if done >= kills {
        return Ok(());
    }
    let mut failovers = Failovers::start("bench-outage", failover::Options::default())?;
    for kill in done + 1..=kills {
        progress(record, kill);
        let run = failovers.run(&mut ())?;
        record.outages.push(Outage::from(&run));
    }
    let well = record.outages.iter().all(|outage| outage.reason.is_none());
    failovers.end(well)
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
        let began = Instant::now();
        let mut running = self.stage.start(subject)?;
        let driver = self.driver(subject);
        let waited = driver.wait_for_guest(BOOT, || self.stage.refuse_trouble(&mut running));
        if let Err(error) = waited {
            self.stage.end(running)?;
            return Err(error);
        }
        running.boot = began.elapsed();
        thread::sleep(SETTLE);
        Ok(running)
    }

    fn measure(&mut self, running: &mut Running, subject: &Subject) -> testbed::Result<Figures> {
        if subject.workload.is_boot() {
            return Ok(figures::of_boot(running.boot));
        }
        if subject.configuration.transfers() {
            return self.measure_transfer(running, subject);
        }
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

    /// What a client sees before the guest's state is transferred, and meanwhile.
    fn measure_transfer(
        &self,
        running: &mut Running,
        subject: &Subject,
    ) -> testbed::Result<Figures> {
        let driver = self.driver(subject);
        let load = Load::start(&driver)?;
        thread::sleep(driver.window);
        let Transfer {
            from,
            to,
            mut figures,
        } = self.stage.transfer(running)?;
        // What was under way at the end gets done.
        thread::sleep(SETTLE);
        let times = load.end()?;
        let before = drive::rate(&times, from - driver.window, from);
        let meanwhile = drive::rate(&times, from, to);
        let kept = before
            .zip(meanwhile)
            .map(|(before, meanwhile)| meanwhile / before);
        let wait = drive::longest_wait(&times, from, to).map(|wait| wait.as_secs_f64() * 1e3);
        for (name, value) in [
            (figures::BEFORE, before),
            (figures::KEPT, kept),
            (figures::LONGEST_WAIT, wait),
        ] {
            figures.extend(value.map(|value| (name.to_owned(), value)));
        }
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
