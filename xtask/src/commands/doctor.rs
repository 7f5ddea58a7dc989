//! `cargo xtask doctor`

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::Layout;

use super::setup;
use crate::steps::Steps;

/// Arguments of `cargo xtask doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let layout = Layout::find();
        Steps::new().step("programs", || setup::build(&layout))?;
        let program = layout.program("ftvm")?;
        let status = Command::new(&program)
            .arg("doctor")
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
        // Without a status it was ended by a signal.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
