//! `cargo xtask simulate`

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::Layout;

/// Arguments of `cargo xtask simulate`.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// How many schedules.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    schedules: u64,
    /// The seed of the first one; the others have the next ones.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl Simulate {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut command = command(&Layout::find(), self.schedules, self.seed);
        let status = command.status().context("cannot start cargo")?;
        Ok(match status.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Runs the simulator: a program of its own, so that nobody else has to build what it simulates.
pub(super) fn command(layout: &Layout, schedules: u64, seed: u64) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(layout.root())
        .args(["run", "--quiet", "--release", "-p", "simulation", "--"])
        .args(["--schedules", &schedules.to_string()])
        .args(["--seed", &seed.to_string()]);
    command
}
