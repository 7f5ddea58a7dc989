//! `cargo xtask bench`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use benchmark::{Axis, Configuration, GuestKind, Options, Record, Sample, Workload, report, run};
use clap::Args;

use super::{micro, setup};
use crate::live_line::LiveLine;
use crate::needs::Needs;
use crate::steps::Steps;

/// Rounds of a run that is not quick.
const ROUNDS: u32 = 5;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Less than ten minutes: one round, short measurements, no guest with a disk.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long a measurement takes, in seconds [default: 10, or 5 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Measure these workloads only, such as `idle,redis-set`.
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_enum)]
    only: Vec<Workload>,
    /// Measure under these configurations only, such as `qemu,alone,logged-reads`.
    #[arg(long, value_name = "CONFIGURATIONS", value_delimiter = ',', value_enum)]
    on: Vec<Configuration>,
    /// Measure growth along these, such as `clients,delay` [default: clients, delay, loss;
    /// none with --quick or --only]
    #[arg(long, value_name = "AXES", value_delimiter = ',', value_enum)]
    growth: Vec<Axis>,
    /// Kill the primary's host so many times, and measure the outages [default: 20; none with
    /// --quick or --only]
    #[arg(long, value_name = "N")]
    kills: Option<u32>,
    /// Write the report to a directory: `report.json` with every sample, after every guest;
    /// `report.md` and its plots as SVG at the end. Without it the report is printed.
    #[arg(long, value_name = "DIRECTORY")]
    report: Option<PathBuf>,
    /// Go on with a run that was cut short: measure only what the `report.json` of `--report` does
    /// not have.
    #[arg(long, requires = "report")]
    resume: bool,
    /// Measure nothing: make the report of a `report.json`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rounds", "seconds", "only", "on", "growth", "kills", "resume"])]
    from: Option<PathBuf>,
    /// Measure parts of ftvm on this machine's own processor, without guests: each beside what the machine
    /// itself takes for the same, in ROUNDS rounds [default: 5, or 1 with --quick], for SECONDS each
    /// [default: 1]
    #[arg(long, conflicts_with_all = ["only", "on", "growth", "kills", "report", "resume", "from"])]
    micro: bool,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if self.micro {
            let rounds = self.rounds.unwrap_or(if self.quick { 1 } else { ROUNDS });
            return micro::run(rounds, self.seconds.unwrap_or(1));
        }
        // Before anything that takes time: a wrong name is told at once.
        let file = self
            .report
            .as_ref()
            .map(|directory| directory.join(report::RECORD));
        let earlier = file.as_deref().filter(|_| self.resume);
        let earlier = earlier.map(Record::read).transpose()?;
        if let Some(directory) = &self.report {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let record = match &self.from {
            Some(path) => Record::read(path)?,
            None => self.measure(earlier, file.as_deref())?,
        };
        match &self.report {
            Some(directory) => report::write(&record, directory)?,
            // Pictures are files: there is no place for them without a directory.
            None => println!("{}", report::markdown(&record, &[])),
        }
        let failed = record.samples.iter().filter(|one| one.outcome.is_err());
        Ok(match failed.count() {
            0 => ExitCode::SUCCESS,
            failed => {
                eprintln!("{failed} of {} measurements failed", record.samples.len());
                ExitCode::FAILURE
            }
        })
    }

    fn measure(&self, earlier: Option<Record>, file: Option<&Path>) -> Result<Record> {
        let options = self.options();
        let chosen = |configuration: &Configuration| {
            let mut workloads = options.workloads.iter();
            workloads.any(|workload| configuration.has(*workload))
        };
        ensure!(
            options.configurations.iter().any(chosen),
            "there is nothing to measure: none of these workloads runs under any of these \
             configurations"
        );
        let with_disk = |workload: &Workload| workload.guest() == GuestKind::Disk;
        let needs = match options.workloads.iter().any(with_disk) {
            true => Needs::All,
            false => Needs::AllButDisk,
        };
        setup::prepare_for(&Steps::new(), needs)?;
        let mut line = LiveLine::new();
        let show = |now: &str, sample: Option<&Sample>| {
            if let Some(sample) = sample {
                line.print(&sample.to_string());
            }
            line.show(now);
        };
        let keep = |record: &Record| {
            if let Some(path) = file
                && let Err(error) = record.write(path)
            {
                eprintln!("{error}");
            }
        };
        Ok(run(&options, earlier, show, keep)?)
    }

    fn options(&self) -> Options {
        let mut options = match self.quick {
            true => Options::quick(),
            false => Options::full(ROUNDS),
        };
        if let Some(rounds) = self.rounds {
            options.rounds = rounds;
        }
        if let Some(seconds) = self.seconds {
            options.window = Duration::from_secs(seconds);
        }
        if !self.only.is_empty() {
            options.workloads.clone_from(&self.only);
        }
        if !self.only.is_empty() || !self.growth.is_empty() {
            options.growth.clone_from(&self.growth);
        }
        if !self.only.is_empty() {
            options.kills = 0;
        }
        if let Some(kills) = self.kills {
            options.kills = kills;
        }
        if !self.on.is_empty() {
            options.configurations.clone_from(&self.on);
        }
        options
    }
}
