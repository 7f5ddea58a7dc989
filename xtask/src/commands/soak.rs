//! `cargo xtask soak`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::soak::{Report, soak};

use super::setup;
use crate::live_line::LiveLine;
use crate::steps::Steps;

/// Arguments of `cargo xtask soak`.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How long, after the guest's boot.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Silence after which a host takes the other for lost, in milliseconds. To be raised if the
    /// machine has other work to do meanwhile.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    heartbeat_timeout: u64,
    /// Write the verdict and all samples to a file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::prepare(&Steps::new())?;
        let mut line = LiveLine::new();
        let duration = Duration::from_secs(60 * self.minutes);
        let heartbeat = Duration::from_millis(self.heartbeat_timeout);
        let report = soak(duration, heartbeat, |sample| {
            line.show(&format!("of {} min: {sample}", self.minutes));
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
        println!("{}", report.judgement);
        Ok(match report.passed() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn print(report: &Report) {
    println!(
        "{:.1} min    differences {}    digests {}    increments {}    load results {}",
        report.minutes,
        report.differences,
        report.digests_verified,
        report.acked,
        report.load_results
    );
    for (what, distribution) in [
        ("lag", report.lag_ms),
        ("wait of an input for the guest", report.input_wait_ms),
        ("ping", report.ping_ms),
    ] {
        if let Some(ms) = distribution {
            println!(
                "{what} ms: median {:.1}, 99th percentile {:.1}, maximum {:.1}",
                ms.p50, ms.p99, ms.max
            );
        }
    }
    println!("pings lost: {}", report.pings_lost);
    if let Some(seconds) = report.throttled_seconds {
        println!("held up for the backup to catch up: {seconds:.1} s");
    }
    for (role, trend) in ["primary", "backup"].into_iter().zip(report.memory) {
        if let Some(trend) = trend {
            println!(
                "memory of the {role}: {:.0} KiB, {:+.0} KiB an hour",
                trend.mean_kib, trend.kib_per_hour
            );
        }
    }
    for reason in &report.reasons {
        println!("   {reason}");
    }
}
