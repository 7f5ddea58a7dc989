//! `ftvm host`: this host's daemon; with a subcommand, what an operator does with hosts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use disk_server::arbiter::VmName;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::operator::hosts::{DrainArgs, ListArgs, UndrainArgs, drain, list, undrain};
use crate::host::{CONFIG_FILE, Config, Daemon, Surroundings};

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
    /// List the hosts.
    ///
    /// And why none of them has the backup of a guest that lacks one.
    List(ListArgs),
    /// Empty a host, and keep it empty.
    ///
    /// Backups join elsewhere, and then primaries are handed over: no guest is without protection for longer
    /// than a join.
    Drain(DrainArgs),
    /// Let a host have guests again.
    Undrain(UndrainArgs),
}

/// The daemon.
#[derive(Args)]
struct DaemonArgs {
    /// The host's configuration (TOML).
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE)]
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
    let config = Config::read(&args.config)?;
    // Before anything can take long: a signal that comes meanwhile ends this process in order, too.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let daemon = Daemon::start(&config, Surroundings::of_this_host(&config)?)?;
    signals.forever().next();
    let guests = daemon.guests();
    let names: Vec<&str> = guests.iter().map(VmName::as_str).collect();
    match names.is_empty() {
        true => log::info!("the daemon ends; no guest runs here"),
        false => log::info!("the daemon ends; guests run on: {}", names.join(", ")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser as _;
    use disk_server::views::Proposal;

    use crate::cli::{Cli, Command};
    use crate::host::{Config, Task, command_line};
    use crate::roles::Force;

    fn told(task: &Task) -> Command {
        let text = "disk_server = \"d:7420\"\nlogging_address = \"10.0.1.1\"\nname = \"a\"";
        let config = Config::parse(text).expect("a configuration");
        let line = command_line(&config, task).expect("a plain name");
        let line = [OsString::from("ftvm")].into_iter().chain(line);
        Cli::try_parse_from(line)
            .expect("it is a command line")
            .command
    }

    #[test]
    fn what_the_daemon_starts_is_a_primary_or_a_backup() {
        let vm: super::VmName = "db".parse().expect("a name");
        let Command::Primary(primary) = told(&Task::Start {
            vm: vm.clone(),
            epoch: 4,
        }) else {
            panic!("another command");
        };
        assert_eq!(primary.force(), Force::From(4));
        assert_eq!(primary.listen, "10.0.1.1:7430".parse().expect("an address"));
        let Command::Backup(backup) = told(&Task::Join(Proposal {
            vm,
            view: 4,
            primary: "b/1".parse().expect("a claimant"),
            address: "10.0.1.2:7431".parse().expect("an address"),
        })) else {
            panic!("another command");
        };
        assert_eq!(
            backup.connect,
            Some("10.0.1.2:7431".parse().expect("an address"))
        );
        assert_eq!(backup.listen, Some(primary.listen));
        for pair in [primary.pair, backup.pair] {
            assert_eq!(pair.host, Some("a".parse().expect("a name")));
            assert_eq!(pair.disk_server, "d:7420".parse().expect("an address"));
        }
    }
}
