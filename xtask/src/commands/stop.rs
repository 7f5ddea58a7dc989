//! `cargo xtask stop`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use testbed::KeptHosts;

/// Arguments of `cargo xtask stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The hosts to end; all of them, and their networks, when none is named.
    hosts: Vec<String>,
}

impl Stop {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let kept = KeptHosts::find();
        if self.hosts.is_empty() {
            kept.stop_all()?;
        } else {
            for name in &self.hosts {
                kept.stop(name)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
