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
    /// In place of schedules, everything that can happen to two hosts, and to three, up to some kills
    /// and cuts; then the same with what is broken on purpose.
    #[arg(long, conflicts_with_all = ["schedules", "seed"])]
    search: bool,
}

impl Simulate {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let mut command = match self.search {
            true => simulator(&layout, &["--search".to_owned()]),
            false => command(&layout, self.schedules, self.seed),
        };
        let status = command.status().context("cannot start cargo")?;
        Ok(match status.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Runs schedules.
pub(super) fn command(layout: &Layout, schedules: u64, seed: u64) -> Command {
    let (schedules, seed) = (schedules.to_string(), seed.to_string());
    simulator(
        layout,
        &["--schedules".into(), schedules, "--seed".into(), seed],
    )
}

/// The simulator: a program of its own, so that nobody else has to build what it simulates.
fn simulator(layout: &Layout, arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(layout.root())
        .args(["run", "--quiet", "--release", "-p", "simulation", "--"])
        .args(arguments);
    command
}
