//! `cargo xtask pictures`

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::Layout;

/// Arguments of `cargo xtask pictures`.
#[derive(Debug, Args)]
pub(crate) struct Pictures {}

impl Pictures {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        // A program of its own, so that nobody else has to build what it shows.
        let status = Command::new(env!("CARGO"))
            .current_dir(layout.root())
            .args(["run", "--quiet", "-p", "pictures"])
            .status();
        Ok(match status.context("cannot start cargo")?.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}
