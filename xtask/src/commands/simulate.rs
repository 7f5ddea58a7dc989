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
    /// In place of schedules, every cut of one link and of two, and every pair of crashes.
    #[arg(long, conflicts_with_all = ["schedules", "seed", "search"])]
    matrix: bool,
    /// Put the matrix into the documentation too, in this directory.
    #[arg(long, value_name = "DIRECTORY", requires = "matrix")]
    write: Option<String>,
}

impl Simulate {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        let mut command = match self {
            Self { search: true, .. } => simulator(&layout, &["--search".to_owned()]),
            Self { matrix: true, .. } => matrix(&layout, self.write.as_deref()),
            _ => command(&layout, self.schedules, self.seed),
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

/// Makes the matrix, and puts it into a directory.
pub(super) fn matrix(layout: &Layout, directory: Option<&str>) -> Command {
    let write = directory.map(|directory| ["--write".to_owned(), directory.to_owned()]);
    let arguments = ["--matrix".to_owned()].into_iter();
    let arguments: Vec<String> = arguments.chain(write.into_iter().flatten()).collect();
    simulator(layout, &arguments)
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
