//! `cargo xtask fio`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::fio::{Report, measure};

use super::setup;
use crate::live_line::LiveLine;
use crate::steps::Steps;

/// Arguments of `cargo xtask fio`.
#[derive(Debug, Args)]
pub(crate) struct Fio {
    /// How often everything is measured; the table has the medians.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each job runs, in seconds.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Write the table and all measurements to a file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Fio {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::prepare(&mut Steps::new())?;
        let mut line = LiveLine::new();
        let report = measure(self.rounds, self.seconds, |seen| {
            line.show(&format!(
                "round {} of {}: {}, {}: {:.0} KiB/s",
                seen.round,
                self.rounds,
                seen.configuration,
                seen.figures.job,
                seen.figures.bytes_per_second / 1024.0
            ));
        })?;
        drop(line);
        print(&report);
        if let Some(path) = &self.json {
            let mut json =
                serde_json::to_string_pretty(&report).context("cannot make the report")?;
            json.push('\n');
            std::fs::write(path, json)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(report: &Report) {
    println!(
        "{:9} {:>5}  {:31} {:>8} {:>10} {:>8} {:>8} {:>10}",
        "job", "block", "guest on", "KiB/s", "latency ms", "to QEMU", "to alone", "log Mbit/s"
    );
    let or_none = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for row in &report.rows {
        println!(
            "{:9} {:>5}  {:31} {:>8.0} {:>10.2} {:>8} {:>8} {:>10}",
            row.job,
            row.block,
            row.configuration,
            row.kib_per_second,
            row.latency_ms,
            or_none(row.to_qemu),
            or_none(row.to_alone),
            or_none(row.log_mbit),
        );
    }
}
