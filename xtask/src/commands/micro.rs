//! `cargo xtask bench --micro`

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use benchmark::micro;
use testbed::Layout;

use crate::needs::Needs;
use crate::packages;
use crate::steps::Steps;

/// What has micro-benchmarks.
const BENCHES: [&str; 8] = [
    "--package",
    "logging-channel",
    "--package",
    "disk-server",
    "--package",
    "ftvm-vmm",
    "--bench",
    "micro",
];

/// As few as criterion takes: with many, a benchmark is far in time from what it is measured beside.
const SAMPLES: &str = "10";
const WARM_UP_SECONDS: &str = "0.3";

/// Measures each benchmark for so many seconds in each of the rounds, and prints what came of it.
pub(super) fn run(rounds: u32, seconds: u64) -> Result<ExitCode> {
    let steps = Steps::new();
    packages::provide(&steps, Needs::Micro)?;
    let layout = Layout::find();
    let results = layout.root().join("target/criterion");
    let cargo = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(env!("CARGO"));
        let output = command
            .current_dir(layout.root())
            .env("CRITERION_HOME", &results)
            .args(["bench", "--quiet"])
            .args(BENCHES)
            .args(arguments)
            .output()
            .context("cannot start cargo")?;
        ensure!(
            output.status.success(),
            "`cargo bench` failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    steps.step("building benchmarks", || cargo(&["--no-run"]))?;
    for number in 1..=rounds {
        let name = micro::round(number);
        let criterion = [
            "--",
            "--noplot",
            "--sample-size",
            SAMPLES,
            "--warm-up-time",
            WARM_UP_SECONDS,
            "--measurement-time",
            &seconds.to_string(),
            "--save-baseline",
            &name,
        ];
        steps.step(&format!("round {number} of {rounds}"), || cargo(&criterion))?;
    }
    print!("{}", micro::markdown(&results, rounds)?);
    Ok(ExitCode::SUCCESS)
}
