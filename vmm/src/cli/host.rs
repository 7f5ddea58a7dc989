//! `ftvm host`: this host's daemon; with a subcommand, what an operator does with hosts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::operator::hosts::{DrainArgs, ListArgs, UndrainArgs, drain, list, undrain};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct HostArgs {
    #[command(subcommand)]
    command: Option<HostCommand>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Subcommand)]
enum HostCommand {
    /// List the hosts, and why one does not take a guest that lacks a backup.
    List(ListArgs),
    /// Empty a host, and keep it empty: its guests move, and stay protected but for a join.
    Drain(DrainArgs),
    /// Let a host have guests again.
    Undrain(UndrainArgs),
}

/// The daemon.
#[derive(Args)]
struct DaemonArgs {
    /// The host's configuration (TOML).
    #[arg(long, value_name = "FILE", default_value = "/etc/ftvm/host.toml")]
    config: PathBuf,
}

/// Runs the command.
pub(super) fn host(args: &HostArgs) -> anyhow::Result<()> {
    match &args.command {
        None => daemon(&args.daemon),
        Some(HostCommand::List(args)) => list(args),
        Some(HostCommand::Drain(args)) => drain(args),
        Some(HostCommand::Undrain(args)) => undrain(args),
    }
}

fn daemon(args: &DaemonArgs) -> anyhow::Result<()> {
    anyhow::bail!("there is no daemon yet for {}", args.config.display())
}
