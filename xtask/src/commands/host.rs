//! `cargo xtask host`

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use testbed::{KeptHosts, Network, Paging, Testbed};

use super::exec::{put_all, run};
use crate::steps::Steps;

/// Arguments of `cargo xtask host`.
#[derive(Debug, Args)]
pub(crate) struct Host {
    /// Its name: a few letters.
    #[arg(long, default_value = "a")]
    name: String,
    /// Keep the host up for `cargo xtask exec`.
    #[arg(long)]
    keep: bool,
    /// How its KVM translates guests' addresses: `shadow`, which recording and replication need, or
    /// `nested`, as a stock host has it.
    #[arg(long, value_name = "MODE", default_value_t)]
    paging: Paging,
    /// Copy a file into the host first.
    #[arg(long, value_name = "LOCAL:REMOTE")]
    put: Vec<String>,
    /// Run the command in a terminal, with this one's keyboard.
    #[arg(long, short)]
    terminal: bool,
    /// The command and its arguments; a shell in a terminal without it.
    #[arg(last = true)]
    command: Vec<String>,
}

impl Host {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let steps = Steps::new();
        if self.keep {
            return self.keep(&steps);
        }
        let testbed = steps.step("networks", || {
            Ok(Testbed::new("host")?.with_paging(self.paging))
        })?;
        let host = steps.step(&format!("host {}", self.name), || {
            Ok(testbed.start_host(&self.name)?)
        })?;
        put_all(&host, &self.put)?;
        let code = if self.command.is_empty() {
            run(
                host.agent(),
                &["sh".to_owned(), "-l".to_owned()],
                &BTreeMap::new(),
                true,
            )?
        } else {
            run(host.agent(), &self.command, &BTreeMap::new(), self.terminal)?
        };
        testbed.succeed();
        Ok(code)
    }

    fn keep(&self, steps: &Steps) -> Result<ExitCode> {
        let kept = KeptHosts::find();
        let host = steps.step(&format!("host {}", self.name), || {
            Ok(kept.start(&self.name, self.paging)?)
        })?;
        put_all(&host, &self.put)?;
        let name = &self.name;
        println!("host {name} is up:");
        for network in Network::ALL {
            println!("  {network:10} {}", host.address(network));
        }
        println!("  console    {}", host.console().display());
        println!("run something:  cargo xtask exec {name} -- uname -a");
        println!(
            "as a client:    ip netns exec {} redis-cli -h {}",
            kept.fabric().client().namespace().name(),
            testbed::GUEST
        );
        println!("end it:         cargo xtask stop {name}");
        if self.command.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        run(host.agent(), &self.command, &BTreeMap::new(), self.terminal)
    }
}
