//! The `ftvm` command line.

mod check;
mod confined;
mod events;
mod examine;
mod guest;
mod help;
mod host;
mod key;
mod keys;
mod log_output;
mod network_test;
mod number;
mod operator;
mod outcome;
mod pair;
mod replay;
mod selftest;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use disk_server::views::Cause;
use logging_channel::Settings;
use logging_channel::entry::ShutdownReason;

use self::events::EventsArgs;
use self::guest::{GuestArgs, ReplicationArgs};
use self::keys::KeyArgs;
use self::operator::{guests, history, notify, protection, report, top};
use self::pair::{BackupArgs, BackupReads, DigestArgs, PrimaryArgs};
use crate::config::Clock;
use crate::doctor::Purpose;
use crate::engine::Ended;
use crate::events::{Event, Events};
use crate::io::{LAST_WORDS, Terminal};
use crate::roles::{self, BackupOptions, Force, PrimaryOptions, RoleError};
use crate::sources::Verification;
#[cfg(feature = "sabotage")]
use crate::sources::sabotage::Plan;

/// From this heartbeat timeout on, a failover may take longer than Linux can tell from the ACPI power
/// management timer: half of its 24 bits, at 3.58 MHz.
const PM_TIMER_FAILOVER: Duration = Duration::from_secs(2);

/// A fault-tolerant virtual machine hypervisor.
#[derive(Parser)]
#[command(name = "ftvm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Describe guests, start and stop them, see how they are.
    Vm(guests::VmArgs),
    /// Hand a guest over to its backup, by plan.
    ///
    /// The guest stands still for no longer than a pause.
    Failover(guests::VmOrderArgs),
    /// Kill a guest's primary, and report how its backup went on.
    ///
    /// Waits until the guest is protected again, and tells for how long it stood still.
    TestFailover(guests::VmOrderArgs),
    /// End a guest's backup, and have a host join anew.
    RestartBackup(guests::VmOrderArgs),
    /// Move a guest's backup to a host; or its primary.
    Migrate(protection::MigrateArgs),
    /// Let a guest run without a backup, until that is taken back.
    SuspendProtection(guests::VmOrderArgs),
    /// Have a guest protected again.
    ResumeProtection(guests::VmOrderArgs),
    /// Look after this host's guests, as its daemon.
    ///
    /// With a command: list hosts, and empty them.
    Host(host::HostArgs),
    /// Watch guests and hosts on one screen.
    ///
    /// The last line has the keys for what is to be done.
    Top(top::TopArgs),
    /// Tell what happened to a guest, or to all and to hosts.
    History(history::HistoryArgs),
    /// Run a command for whatever happens to guests and hosts.
    ///
    /// For each transition of `ftvm history`, one after the other: as a JSON object on its standard input, and in
    /// FTVM_NUMBER, FTVM_EVENT, FTVM_VM or FTVM_HOST, and FTVM_WORDS. It is killed after 30 s. Runs until it is
    /// ended.
    Notify(notify::NotifyArgs),
    /// Run a guest without replication.
    Run(RunArgs),
    /// Run a guest and record it to a file.
    Record(RecordArgs),
    /// Replay a recorded guest and report the first difference.
    Replay(replay::ReplayArgs),
    /// Run a guest as the primary of a replicated pair.
    ///
    /// At once and alone, until a backup joins.
    Primary(PrimaryArgs),
    /// Be the backup of a guest that runs, or waits for one.
    ///
    /// Goes live when the primary is lost. Without --connect this host is idle until a primary wants a
    /// backup.
    Backup(BackupArgs),
    /// Prove this host, or a pair, with recorded test guests.
    ///
    /// Records and replays test guests for some minutes and compares every place: proves this host, or,
    /// with --record on one and --replay on the other, a pair. Ends with PASS or FAIL, after a report
    /// that tells nothing private. Exit status 4 if something differed, 2 if this host is not fit.
    Selftest(selftest::SelftestArgs),
    /// Measure what the logging network carries.
    ///
    /// Before any guest is there: --listen on one machine, --connect on the other, which tells how much a
    /// log may have, how long acknowledgements take, how heartbeats come, how many guests that serves; beside
    /// bare TCP between the same ends.
    NetworkTest(network_test::NetworkTestArgs),
    /// Say whether this host can carry guests, and why not.
    ///
    /// Exit status 2 if it cannot.
    Doctor(examine::DoctorArgs),
    /// Find all that is wrong with a configuration.
    ///
    /// Of a host, of a guest, or of who is trusted, with the line, the column, and what is allowed; and what it names
    /// and this machine lacks. Run it on the machine that the file is for, as the user that reads it there (of packages: `sudo -u ftvm`). Programs check the same when
    /// they start. Exit status 1 if something is wrong.
    Check(check::CheckArgs),
    /// Collect what a maintainer needs to help with a guest.
    ///
    /// Into ftvm-report-VM-TIME.tar here: how the guest is and was, its definition, what its processes on this host
    /// and the daemon said, and what this host is. No key, and nothing of the guest's memory, disk and console. Run
    /// it as root on each host that the guest was on.
    Report(report::ReportArgs),
    /// Try out whether places between exits are found again.
    ///
    /// Measures the performance counter, if there is one. Then records and replays a micro-guest that
    /// gets interrupts after random numbers of instructions, counted by single-stepping, and reports the
    /// first difference. Then the same with a counter of branches that stops the guest late, which is
    /// made of single steps too.
    ProbeCounter(examine::ProbeCounterArgs),
    /// Make and show the key with which this machine, or a person, proves itself.
    Key(key::CommandArgs),
    /// Print what a shell completes of this command line.
    ///
    /// For bash: ftvm completions bash > /etc/bash_completion.d/ftvm
    Completions(help::CompletionsArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    ManPages(help::ManPagesArgs),
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    events: EventsArgs,
}

#[derive(Args)]
struct RecordArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    replication: ReplicationArgs,
    #[command(flatten)]
    events: EventsArgs,
    #[command(flatten)]
    digests: DigestArgs,
    /// File for the log.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Also log all registers at every exit and all of guest memory at the end, so that the
    /// replay compares them and names the first difference. The log becomes much larger.
    #[arg(long)]
    verify: bool,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let matches = help::grouped(Cli::command()).get_matches();
    let result = match Cli::from_arg_matches(&matches) {
        Ok(cli) => run(&cli),
        Err(error) => error.exit(),
    };
    // What the guest wrote is for a terminal as the guest left it.
    disk_server::lossy_writer::finish(LAST_WORDS);
    Terminal::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<outcome::SelftestFailed>() {
                disk_server::lossy_writer::say(&format!("ftvm: {error:#}\n"));
            }
            disk_server::lossy_writer::finish(LAST_WORDS);
            ExitCode::from(outcome::exit_code(&error))
        }
    }
}

/// Starts the log, which is a thread.
fn start_log() {
    log_output::start();
    outcome::survive_file_size_limit();
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    // These are confined before.
    if !matches!(cli.command, Command::Primary(_) | Command::Backup(_)) {
        start_log();
    }
    match &cli.command {
        Command::Vm(args) => guests::vm(args)?,
        Command::Failover(args) => protection::failover(args)?,
        Command::TestFailover(args) => protection::test_failover(args)?,
        Command::RestartBackup(args) => protection::restart_backup(args)?,
        Command::Migrate(args) => protection::migrate(args)?,
        Command::SuspendProtection(args) => protection::suspend(args)?,
        Command::ResumeProtection(args) => protection::resume(args)?,
        Command::Host(args) => host::host(args)?,
        Command::Top(args) => top::run(args)?,
        Command::History(args) => history::history(args)?,
        Command::Notify(args) => notify::notify(args)?,
        Command::Run(args) => run_alone(args)?,
        Command::Record(args) => record(args)?,
        Command::Replay(args) => replay::replay(args)?,
        Command::Primary(args) => primary(args)?,
        Command::Backup(args) => backup(args)?,
        Command::Selftest(args) => selftest::selftest(args)?,
        Command::NetworkTest(args) => network_test::network_test(args)?,
        Command::Doctor(args) => examine::doctor(args)?,
        Command::Check(args) => check::check(args)?,
        Command::Report(args) => report::report(args)?,
        Command::ProbeCounter(args) => examine::probe_counter(args)?,
        Command::Key(args) => key::key(args)?,
        Command::Completions(args) => help::completions(args, Cli::command())?,
        Command::ManPages(args) => help::man_pages(args, Cli::command())?,
    }
    Ok(())
}

fn report(ended: Ended) -> anyhow::Result<()> {
    log::info!(
        "the guest ended: {:?}, after {} exits",
        ended.reason,
        ended.exits
    );
    match ended.reason {
        ShutdownReason::TripleFault => Err(outcome::GuestCrashed.into()),
        _ => Ok(()),
    }
}

fn run_alone(args: &RunArgs) -> anyhow::Result<()> {
    let events = args.events.open(&args.guest)?;
    let guest = args
        .guest
        .assemble(Purpose::Alone, &args.keys, Verification::default())?;
    outcome::stop_on_signals(&guest.host.lanes)?;
    finish(
        &events,
        roles::run_alone(guest, args.guest.latency(), &events),
    )
}

fn record(args: &RecordArgs) -> anyhow::Result<()> {
    let verification = if args.verify {
        Verification::EveryExit
    } else {
        Verification::default()
    };
    let events = args.events.open(&args.guest)?;
    let purpose = args.replication.purpose();
    let guest = args.guest.assemble(purpose, &args.keys, verification)?;
    outcome::stop_on_signals(&guest.host.lanes)?;
    let ended = roles::run_recording(
        guest,
        &args.log,
        verification,
        args.digests.pace(&args.guest),
        &events,
    );
    if ended.is_ok() {
        let bytes = std::fs::metadata(&args.log).map_or(0, |m| m.len());
        log::info!("recorded to {}: {bytes} bytes", args.log.display());
    }
    finish(&events, ended)
}

fn primary(args: &PrimaryArgs) -> anyhow::Result<()> {
    let vm = args.guest.vm()?;
    let confinement = confined::primary(args, &vm);
    start_log();
    let events = args.pair.events.open(&args.guest)?;
    let endpoint = args.pair.keys.of_host()?;
    let options = PrimaryOptions {
        listen: args.listen,
        arbiter: args.pair.arbiter(endpoint.clone(), args.force()),
        control: args.pair.control.clone(),
        channel: Settings {
            heartbeat_timeout: args.heartbeat_timeout(&vm),
            ..args.pair.channel(&args.guest)
        },
        wait_for_backup: args.wait_for_backup,
        backup_reads: args.pair.backup_reads == BackupReads::Disk,
        pace: args.pair.pace(&args.guest),
        confinement,
        #[cfg(feature = "sabotage")]
        never_repair: args.never_repair,
        #[cfg(feature = "sabotage")]
        break_output_rule: args.break_output_rule,
    };
    if vm.clock == Clock::PmTimer && options.channel.heartbeat_timeout >= PM_TIMER_FAILOVER {
        log::warn!(
            "a failover of more than 2.3 s costs a guest with --clock pm-timer 4.7 s of its time, and \
             --heartbeat-timeout {} alone is nearly that: take less, or another clock",
            options.channel.heartbeat_timeout.as_millis()
        );
    }
    let cancel = outcome::cancel_on_signals()?;
    let ended = roles::run_primary(
        &vm,
        &args.guest.host(args.pair.replication.purpose(), endpoint),
        &options,
        &events,
        outcome::halt_process(),
        &cancel,
        |guest, run| outcome::heed_signals(&guest.host.lanes, run, args.pair.tended),
    );
    finish(&events, ended)
}

fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let vm = args.guest.vm()?;
    let confinement = confined::backup(args, &vm);
    start_log();
    let events = args.pair.events.open(&args.guest)?;
    let endpoint = args.pair.keys.of_host()?;
    let options = BackupOptions {
        connect: args.connect,
        connect_timeout: Duration::from_secs(args.connect_timeout),
        arbiter: args.pair.arbiter(endpoint.clone(), Force::No),
        control: args.pair.control.clone(),
        listen: args.listen,
        channel: Settings {
            keep: args.cold.keep(),
            ..args.pair.channel(&args.guest)
        },
        pace: args.pair.pace(&args.guest),
        backup_reads: args.pair.backup_reads == BackupReads::Disk,
        confinement,
        turn_hot: outcome::turn_hot_on_signal()?,
        #[cfg(feature = "sabotage")]
        sabotage: Plan {
            targets: args.sabotage.clone(),
            next: outcome::next_on_signal()?,
        },
    };
    let tended = args.pair.tended;
    let ended = roles::run_backup(
        &vm,
        &args.guest.host(args.pair.replication.purpose(), endpoint),
        &options,
        &events,
        outcome::halt_process(),
        move |lanes, run| outcome::heed_signals(lanes, run, tended),
    );
    finish(&events, ended)
}

fn finish<E>(events: &Events, ended: Result<Ended, E>) -> anyhow::Result<()>
where
    E: Into<anyhow::Error>,
{
    let ended = ended.map_err(Into::into);
    let (reason, cause, exits) = match &ended {
        Ok(ended) => (format!("{:?}", ended.reason), None, ended.exits),
        Err(error) => {
            let cause = error.downcast_ref().map_or(Cause::Other, RoleError::cause);
            (format!("Failed: {error}"), Some(cause), 0)
        }
    };
    events.emit(&Event::Ended {
        reason,
        cause,
        exits,
    });
    report(ended?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_backup_is_told_how_to_protect_the_guest_when_it_has_gone_live() {
        let common = "--memory 64 --kernel k --disk-server d:7420 --max-lag 300 --output-timeout 9000 \
                      --digest-interval 5000 --max-pause 250 --transfer-limit 30 --backup-reads disk";
        let channel_and_pace = |own: &str| {
            let line = format!("ftvm {own} {common}");
            match Cli::parse_from(line.split_whitespace()).command {
                Command::Primary(PrimaryArgs { guest, pair, .. })
                | Command::Backup(BackupArgs { guest, pair, .. }) => {
                    assert!(pair.backup_reads == BackupReads::Disk);
                    (pair.channel(&guest), pair.pace(&guest))
                }
                _ => unreachable!("another command"),
            }
        };
        for own in [
            "primary --listen 10.0.0.1:7421",
            "backup --connect 10.0.0.1:7421",
        ] {
            let (channel, pace) = channel_and_pace(own);
            assert_eq!(channel.output_timeout(), Duration::from_secs(9));
            assert_eq!(channel.max_lag, Duration::from_millis(300));
            assert_eq!(pace.digest_interval, Duration::from_secs(5));
            assert_eq!(pace.transfer.max_pause, Duration::from_millis(250));
            assert_eq!(pace.transfer.limit, Some(30_000_000));
        }
    }

    #[test]
    fn a_backup_that_is_told_no_primary_is_idle() {
        let line = "ftvm backup --kernel k --disk-server d:7420";
        let parse = |more: &str| Cli::try_parse_from(format!("{line} {more}").split_whitespace());
        let Ok(Cli {
            command: Command::Backup(args),
        }) = parse("")
        else {
            panic!("another command, or none");
        };
        assert!(args.connect.is_none() && args.listen.is_none());
        assert!(parse("--connect-timeout 5").is_err(), "to connect where?");
        assert!(parse("--connect-timeout 5 --connect 10.0.0.1:7421").is_ok());
    }

    #[test]
    fn a_forced_start_may_name_the_epoch() {
        let line = "ftvm primary --kernel k --disk-server d:7420 --listen 10.0.0.1:7421";
        let parse = |more: &str| {
            let line = format!("{line} {more}");
            match Cli::try_parse_from(line.split_whitespace()).ok()?.command {
                Command::Primary(args) => Some(args.force()),
                _ => unreachable!("another command"),
            }
        };
        assert_eq!(parse(""), Some(Force::No));
        assert_eq!(parse("--force --wait-for-backup"), Some(Force::Yes));
        assert_eq!(parse("--force=7"), Some(Force::From(7)));
        assert_eq!(parse("--force=x"), None);
    }

    #[test]
    fn only_a_build_for_sabotage_can_be_told_to_break_itself() {
        let cli = Cli::command();
        for (command, option) in [
            ("primary", "never-repair"),
            ("primary", "break-output-rule"),
            ("backup", "sabotage"),
        ] {
            let command = cli.find_subcommand(command).expect("it is there");
            let known = (command.get_arguments()).any(|known| known.get_long() == Some(option));
            assert_eq!(known, cfg!(feature = "sabotage"), "--{option}");
        }
    }
}
