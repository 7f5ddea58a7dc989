//! `cargo xtask exec`

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use testbed::{AgentClient, Exit, Host, KeptHosts, Source};

use crate::terminal::RawTerminal;

/// Arguments of `cargo xtask exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The host.
    host: String,
    /// Run the command in a terminal, with this one's keyboard.
    #[arg(long, short)]
    terminal: bool,
    /// Copy a file into the host first.
    #[arg(long, value_name = "LOCAL:REMOTE")]
    put: Vec<String>,
    /// Copy a file out of the host afterwards.
    #[arg(long, value_name = "REMOTE:LOCAL")]
    get: Vec<String>,
    /// Set a variable for the command.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The command and its arguments.
    #[arg(last = true)]
    command: Vec<String>,
}

impl Exec {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let host = KeptHosts::find().host(&self.host)?;
        put_all(&host, &self.put)?;
        let mut env = BTreeMap::new();
        for pair in &self.env {
            let (name, value) = halves(pair, '=')?;
            env.insert(name.to_owned(), value.to_owned());
        }
        let code = if self.command.is_empty() {
            ExitCode::SUCCESS
        } else {
            run(host.agent(), &self.command, &env, self.terminal)?
        };
        for pair in &self.get {
            let (remote, local) = halves(pair, ':')?;
            host.get(remote, Path::new(local))?;
        }
        Ok(code)
    }
}

/// Copies files (`LOCAL:REMOTE`) into a host.
pub(crate) fn put_all(host: &Host, pairs: &[String]) -> Result<()> {
    for pair in pairs {
        let (local, remote) = halves(pair, ':')?;
        host.put(Path::new(local), remote)?;
    }
    Ok(())
}

/// Runs a command in a host, prints what it prints, and exits as it does.
pub(crate) fn run(
    agent: &AgentClient,
    command: &[String],
    env: &BTreeMap<String, String>,
    in_terminal: bool,
) -> Result<ExitCode> {
    let argv: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut failed = None;
    let print = |source, bytes: &[u8]| {
        let written = match source {
            Source::Stdout => io::stdout()
                .write_all(bytes)
                .and_then(|()| io::stdout().flush()),
            Source::Stderr => io::stderr().write_all(bytes),
        };
        failed = failed.take().or(written.err());
    };
    let exit = if in_terminal {
        let terminal = RawTerminal::enter()?;
        agent.interact(&argv, env, terminal.size(), io::stdin(), print)?
    } else {
        agent.stream(&argv, env, print)?
    };
    if let Some(error) = failed {
        return Err(error).context("cannot print what the command prints");
    }
    Ok(match exit {
        Exit::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Exit::Signal(signal) => {
            eprintln!("ended by signal {signal}");
            // As shells have it.
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
    })
}

fn halves(pair: &str, separator: char) -> Result<(&str, &str)> {
    pair.split_once(separator)
        .with_context(|| format!("`{pair}` lacks the `{separator}` between its two parts"))
}
