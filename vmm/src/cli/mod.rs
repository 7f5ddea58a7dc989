//! The `ftvm` command line.

mod events;
mod examine;
mod guest;
mod log_output;
mod number;
mod outcome;
mod replay;
mod selftest;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use disk_server::arbiter::ServerAddress;
use logging_channel::entry::ShutdownReason;
use logging_channel::{Keep, Settings};

use self::events::EventsArgs;
use self::guest::{GuestArgs, ReplicationArgs};
use self::number::number;
use crate::config::Clock;
use crate::doctor::Purpose;
use crate::engine::Ended;
use crate::events::{Event, Events};
use crate::io::{LAST_WORDS, Terminal};
use crate::roles::{self, ArbiterConfig, BackupOptions, PrimaryOptions};
#[cfg(feature = "sabotage")]
use crate::sources::sabotage::{Plan, Target};
use crate::sources::{Pace, TransferPace, Verification};

/// From this heartbeat timeout on, a failover may take longer than Linux can tell from the ACPI power
/// management timer: half of its 24 bits, at 3.58 MHz.
const PM_TIMER_FAILOVER: Duration = Duration::from_secs(2);

/// A cold backup asks for the guest's state anew when the log since then has so many bytes.
const MOST_LOG: u64 = 1 << 30;

/// A fault-tolerant virtual machine hypervisor.
#[derive(Parser)]
#[command(name = "ftvm", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a guest without replication.
    Run(RunArgs),
    /// Run a guest and record it to a file.
    Record(RecordArgs),
    /// Replay a recorded guest and report the first difference.
    Replay(replay::ReplayArgs),
    /// Run a guest as the primary of a replicated pair; waits for its backup.
    Primary(PrimaryArgs),
    /// Be the backup of a replicated pair; goes live when the primary is lost.
    Backup(BackupArgs),
    /// Record and replay test guests for some minutes and compare every place: proves this host, or,
    /// with --record on one and --replay on the other, a pair. Ends with PASS or FAIL, after a report
    /// that tells nothing private. Exit status 4 if something differed, 2 if this host is not fit.
    Selftest(selftest::SelftestArgs),
    /// Say whether this host can run guests and replicate them, and why not. Exit status 2 if it cannot.
    Doctor(examine::DoctorArgs),
    /// Try out whether this host finds places between two exits again. Measures the performance
    /// counter, if there is one. Then records and replays a micro-guest that gets interrupts after
    /// random numbers of instructions, counted by single-stepping, and reports the first
    /// difference. Then the same with a counter of branches that stops the guest late, which is
    /// made of single steps too.
    ProbeCounter(examine::ProbeCounterArgs),
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    events: EventsArgs,
}

#[derive(Args)]
struct RecordArgs {
    #[command(flatten)]
    guest: GuestArgs,
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

/// How the guest's state is compared.
#[derive(Args)]
struct DigestArgs {
    /// Time between two digests of the guest's state, which the replay compares, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = number(10..=3_600_000))]
    digest_interval: u64,
}

impl DigestArgs {
    fn pace(&self, guest: &GuestArgs) -> Pace {
        Pace {
            latency: guest.latency(),
            digest_interval: Duration::from_millis(self.digest_interval),
            ..Pace::default()
        }
    }
}

/// What both hosts of a pair need. A backup goes by the bounds and intervals when it has gone live.
#[derive(Args)]
struct PairArgs {
    /// The disk server, which decides who may go on alone.
    #[arg(long, value_name = "HOST:PORT")]
    disk_server: ServerAddress,
    #[command(flatten)]
    replication: ReplicationArgs,
    #[command(flatten)]
    events: EventsArgs,
    #[command(flatten)]
    digests: DigestArgs,
    /// How long an output, or a guest that is held up, may wait for a backup that is heard but does
    /// not get on, in milliseconds, before the backup is taken for lost; four times as long for one that
    /// gets on and does not catch up. Twice the heartbeat timeout and at least 1000 if not given.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    output_timeout: Option<u64>,
    /// How far the backup may lag before the guest is slowed, in milliseconds, beyond the round trip
    /// of the logging network.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = number(1..=600_000))]
    max_lag: u64,
    /// For how long the guest may stand still at the end of a backup's join, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = number(1..=600_000))]
    max_pause: u64,
    /// How much of the logging network a join may take, in MB/s. As much as there is if not given.
    #[arg(long, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    transfer_limit: Option<u64>,
    /// Slow the guest down while a backup joins if it writes faster than the network takes, which may
    /// never come to an end otherwise.
    #[arg(long)]
    throttle_guest: bool,
}

impl PairArgs {
    /// How a host protects the guest while it runs it, but for the heartbeat timeout.
    fn channel(&self, guest: &GuestArgs) -> Settings {
        Settings {
            output_timeout: self.output_timeout.map(Duration::from_millis),
            max_lag: Duration::from_millis(self.max_lag),
            longest_step: guest.latency(),
            ..Settings::default()
        }
    }

    /// How often the guest's state is taken, and what that may cost.
    fn pace(&self, guest: &GuestArgs) -> Pace {
        Pace {
            transfer: TransferPace {
                max_pause: Duration::from_millis(self.max_pause),
                limit: self.transfer_limit.map(|mb| mb * 1_000_000),
                throttles: self.throttle_guest,
            },
            ..self.digests.pace(guest)
        }
    }
}

/// Where a backup gets what the guest reads from its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum BackupReads {
    /// From the log.
    #[default]
    Log,
    /// From the disk.
    Disk,
}

#[derive(Args)]
struct PrimaryArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    pair: PairArgs,
    /// Address of the logging channel, where the backup connects (TCP, and UDP for heartbeats).
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Keep the guest from its first instruction until a backup has joined. Otherwise it begins at once and
    /// alone, and is protected when one has.
    #[arg(long)]
    wait_for_backup: bool,
    /// Silence after which a host takes the other for lost, in milliseconds. Both use the
    /// primary's value.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = number(10..=600_000))]
    heartbeat_timeout: u64,
    /// Where the backup gets what the guest reads from its disk: from the log, or from the disk
    /// itself, which spares the logging network and delays writes of what was just read.
    #[arg(long, value_enum, default_value_t)]
    backup_reads: BackupReads,
    /// Start even if the disk server says that another host runs this guest. Only when that host
    /// is certainly gone.
    #[arg(long)]
    force: bool,
    /// Never send the whole state to a backup that differs, to show what a failover does then.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    never_repair: bool,
    /// Break the Output Rule, to show what it is for.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    break_output_rule: bool,
}

#[derive(Args)]
struct BackupArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    pair: PairArgs,
    /// Address of the primary's logging channel.
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,
    /// Where this host takes a new backup of the guest when it has gone live; if not given, at its
    /// address towards the primary, and the same port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// How long to try to reach the primary, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = number(0..=31_536_000))]
    connect_timeout: u64,
    #[command(flatten)]
    cold: ColdArgs,
    /// Flip a bit of this guest's memory, of a register, of a page table, or of a log entry, to show
    /// that it is found: of the next one of these at each SIGUSR1.
    #[cfg(feature = "sabotage")]
    #[arg(
        long,
        value_name = "memory|register|accessed-bit|window|entry",
        value_delimiter = ','
    )]
    sabotage: Vec<Target>,
}

/// A backup that executes nothing.
#[derive(Args)]
struct ColdArgs {
    /// Be a cold backup: keep the guest's state and its log in this directory, and execute that only
    /// when the primary is lost, or on SIGUSR2, after which this is a hot backup. It costs little of a
    /// processor and none of the guest's memory until then, and a failover takes as long as the replay.
    /// The directory needs room for twice the guest's memory, and for the log.
    #[arg(long, value_name = "DIRECTORY")]
    cold: Option<PathBuf>,
    /// Acknowledge what is on the disk, and not what is in memory: outputs wait for the disk.
    #[arg(long, requires = "cold")]
    cold_durable: bool,
    /// How long the replay of the log may take before the cold backup asks for the guest's state anew,
    /// in seconds, as the guest's use of its processor says; or when the log has 1 GiB.
    #[arg(long, value_name = "S", requires = "cold", default_value_t = 60, value_parser = number(1..=86_400))]
    cold_replay: u64,
}

impl ColdArgs {
    fn keep(&self) -> Option<Keep> {
        Some(Keep {
            directory: self.cold.clone()?,
            durable: self.cold_durable,
            most_replay: Duration::from_secs(self.cold_replay),
            most_log: MOST_LOG,
        })
    }
}

impl BackupArgs {
    fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| {
            let any: IpAddr = match self.connect {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            // Nothing is sent: this asks for the route.
            let towards = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket
                    .connect(self.connect)
                    .and_then(|()| socket.local_addr())
            });
            SocketAddr::new(towards.map_or(any, |own| own.ip()), self.connect.port())
        })
    }
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    log_output::start();
    outcome::survive_file_size_limit();
    let result = run(&Cli::parse());
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

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Run(args) => run_alone(args)?,
        Command::Record(args) => record(args)?,
        Command::Replay(args) => replay::replay(args)?,
        Command::Primary(args) => primary(args)?,
        Command::Backup(args) => backup(args)?,
        Command::Selftest(args) => selftest::selftest(args)?,
        Command::Doctor(args) => examine::doctor(args)?,
        Command::ProbeCounter(args) => examine::probe_counter(args)?,
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
        .assemble(Purpose::Alone, Verification::default())?;
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
    let guest = args.guest.assemble(purpose, verification)?;
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
    let events = args.pair.events.open(&args.guest)?;
    let options = PrimaryOptions {
        listen: args.listen,
        arbiter: ArbiterConfig {
            server: args.pair.disk_server.clone(),
            force: args.force,
        },
        channel: Settings {
            heartbeat_timeout: Duration::from_millis(args.heartbeat_timeout),
            ..args.pair.channel(&args.guest)
        },
        wait_for_backup: args.wait_for_backup,
        backup_reads: args.backup_reads == BackupReads::Disk,
        pace: args.pair.pace(&args.guest),
        #[cfg(feature = "sabotage")]
        never_repair: args.never_repair,
        #[cfg(feature = "sabotage")]
        break_output_rule: args.break_output_rule,
    };
    let vm = args.guest.vm()?;
    if vm.clock == Clock::PmTimer && options.channel.heartbeat_timeout >= PM_TIMER_FAILOVER {
        log::warn!(
            "a failover of more than 2.3 s costs a guest with --clock pm-timer 4.7 s of its time, and \
             --heartbeat-timeout {} alone is nearly that: take less, or another clock",
            args.heartbeat_timeout
        );
    }
    let cancel = outcome::cancel_on_signals()?;
    let ended = roles::run_primary(
        &vm,
        &args.guest.host(args.pair.replication.purpose()),
        &options,
        &events,
        outcome::halt_process(),
        &cancel,
        |guest| outcome::stop_on_signals_or_warn(&guest.host.lanes),
    );
    finish(&events, ended)
}

fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let events = args.pair.events.open(&args.guest)?;
    let options = BackupOptions {
        connect: args.connect,
        connect_timeout: Duration::from_secs(args.connect_timeout),
        arbiter: ArbiterConfig {
            server: args.pair.disk_server.clone(),
            force: false,
        },
        listen: args.listen(),
        channel: Settings {
            keep: args.cold.keep(),
            ..args.pair.channel(&args.guest)
        },
        pace: args.pair.pace(&args.guest),
        turn_hot: outcome::turn_hot_on_signal()?,
        #[cfg(feature = "sabotage")]
        sabotage: Plan {
            targets: args.sabotage.clone(),
            next: outcome::next_on_signal()?,
        },
    };
    let ended = roles::run_backup(
        &args.guest.vm()?,
        &args.guest.host(args.pair.replication.purpose()),
        &options,
        &events,
        outcome::halt_process(),
        outcome::stop_on_signals_or_warn,
    );
    finish(&events, ended)
}

fn finish<E>(events: &Events, ended: Result<Ended, E>) -> anyhow::Result<()>
where
    E: Into<anyhow::Error>,
{
    let ended = ended.map_err(Into::into);
    let (reason, exits) = match &ended {
        Ok(ended) => (format!("{:?}", ended.reason), ended.exits),
        Err(e) => (format!("Failed: {e}"), 0),
    };
    events.emit(&Event::Ended { reason, exits });
    report(ended?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_backup_is_told_how_to_protect_the_guest_when_it_has_gone_live() {
        let common = "--memory 64 --kernel k --disk-server d:7420 --max-lag 300 --output-timeout 9000 \
                      --digest-interval 5000 --max-pause 250 --transfer-limit 30";
        let channel_and_pace = |own: &str| {
            let line = format!("ftvm {own} {common}");
            match Cli::parse_from(line.split_whitespace()).command {
                Command::Primary(PrimaryArgs { guest, pair, .. })
                | Command::Backup(BackupArgs { guest, pair, .. }) => {
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
