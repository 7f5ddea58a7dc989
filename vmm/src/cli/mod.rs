//! The `ftvm` command line.

mod outcome;
mod replay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use disk_server::arbiter::ServerAddress;
use logging_channel::Settings;
use logging_channel::entry::ShutdownReason;

use crate::assembly::{Guest, HostConfig};
use crate::config::{Clock, Mac, VmConfig};
use crate::counter_trial::{self, Counting, Trial};
use crate::disk::service::DiskSettings;
use crate::disk::uri::DiskUri;
use crate::engine::Ended;
use crate::events::{Event, Events, EventsError};
use crate::io::Terminal;
use crate::kvm::branch_counter;
use crate::roles::{self, ArbiterConfig, BackupOptions, PrimaryOptions};
use crate::sources::sabotage::{Plan, Target};
use crate::sources::{Pace, Verification};

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
    /// Say whether this host can run guests, and why not. Exit status 2 if it cannot.
    Doctor(DoctorArgs),
    /// Try out whether this host finds places between two exits again. Measures the performance
    /// counter, if there is one. Then records and replays a micro-guest that gets interrupts after
    /// random numbers of instructions, counted by single-stepping, and reports the first
    /// difference. Then the same with a counter of branches that stops the guest late, which is
    /// made of single steps too.
    ProbeCounter(ProbeCounterArgs),
}

#[derive(Args)]
struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ProbeCounterArgs {
    /// Interrupts to deliver.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    interrupts: u64,
    /// What the random numbers follow from.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Largest number of instructions between two interrupts.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(counter_trial::HANDLER..))]
    distance: u64,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    events: EventsArgs,
}

/// Where progress goes.
#[derive(Args)]
struct EventsArgs {
    /// Write progress as one JSON object a line to a file, or to standard output for "-".
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

impl EventsArgs {
    fn open(&self) -> Result<Events, EventsError> {
        Events::open(self.events.as_deref())
    }
}

#[derive(Args)]
struct RecordArgs {
    #[command(flatten)]
    guest: GuestArgs,
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
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
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

/// What both hosts of a pair need.
#[derive(Args)]
struct PairArgs {
    /// The disk server, which decides who may go on alone.
    #[arg(long, value_name = "HOST:PORT")]
    disk_server: ServerAddress,
    #[command(flatten)]
    events: EventsArgs,
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
    #[command(flatten)]
    digests: DigestArgs,
    /// Address of the logging channel, where the backup connects (TCP, and UDP for heartbeats).
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Silence after which a host takes the other for lost, in milliseconds. Both use the
    /// primary's value.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    heartbeat_timeout: u64,
    /// How far the backup may lag before the guest is slowed, in milliseconds, beyond the round trip
    /// of the logging network.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    max_lag: u64,
    /// Where the backup gets what the guest reads from its disk: from the log, or from the disk
    /// itself, which spares the logging network and delays writes of what was just read.
    #[arg(long, value_enum, default_value_t)]
    backup_reads: BackupReads,
    /// Start even if the disk server says that another host runs this guest. Only when that host
    /// is certainly gone.
    #[arg(long)]
    force: bool,
    /// Never send the whole state to a backup that differs, to show what a failover does then.
    #[arg(long, hide = true)]
    never_repair: bool,
    /// Break the Output Rule, to show what it is for.
    #[arg(long, hide = true)]
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
    /// How long to try to reach the primary, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60)]
    connect_timeout: u64,
    /// Flip a bit of this guest's memory, of a register, or of a log entry, to show that it is
    /// found.
    #[arg(long, hide = true, value_name = "memory|register|entry")]
    sabotage: Option<Target>,
    /// When to do so, in seconds from the start.
    #[arg(long, hide = true, value_name = "S", default_value_t = 5)]
    sabotage_after: u64,
}

/// The guest and its connections on this host.
#[derive(Args)]
struct GuestArgs {
    /// Configuration file of the virtual machine (TOML); options override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the virtual machine.
    #[arg(long)]
    name: Option<String>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Uncompressed kernel (vmlinux).
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words added to the kernel's command line.
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// Ethernet address of the guest.
    #[arg(long)]
    mac: Option<Mac>,
    /// Clock of the guest's kernel [default: pm-timer, or the configuration file's]
    #[arg(long)]
    clock: Option<Clock>,
    /// Disk of the guest: an export of a disk server. Both hosts of a pair name the same one.
    #[arg(long, value_name = "nbd://HOST[:PORT]/EXPORT")]
    disk: Option<DiskUri>,
    /// How long a request to the disk is tried while the disk server does not answer, before the
    /// guest gets an I/O error, in seconds.
    #[arg(long, value_name = "S", default_value_t = DiskSettings::TIMEOUT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    disk_timeout: u64,
    /// TAP interface that joins the guest to the client network.
    #[arg(long, value_name = "INTERFACE")]
    tap: Option<String>,
    /// How long an input waits for a guest that computes without an exit before the guest is
    /// stopped for it, in milliseconds. Replicated, a stop costs a state delta where the host has
    /// no performance counter.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    latency: u64,
    /// Attach this terminal to the guest's console (Ctrl-A x ends it).
    #[arg(long)]
    console: bool,
    /// Append the guest's console output to a file.
    #[arg(long, value_name = "FILE")]
    console_log: Option<PathBuf>,
}

impl GuestArgs {
    fn vm(&self) -> anyhow::Result<VmConfig> {
        let mut vm = match (&self.config, &self.kernel) {
            (Some(path), _) => VmConfig::read(path)?,
            (None, Some(kernel)) => VmConfig::for_kernel(kernel.clone()),
            (None, None) => anyhow::bail!("name the guest: --config FILE, or --kernel FILE"),
        };
        if let Some(name) = &self.name {
            vm.name.clone_from(name);
        }
        if let Some(kernel) = &self.kernel {
            vm.kernel.clone_from(kernel);
        }
        if let Some(memory) = self.memory {
            vm.memory_mib = memory;
        }
        if self.initrd.is_some() {
            vm.initrd.clone_from(&self.initrd);
        }
        if let Some(append) = &self.append {
            vm.append = format!("{} {append}", vm.append).trim().to_owned();
        }
        if let Some(mac) = self.mac {
            vm.mac = mac;
        }
        if let Some(clock) = self.clock {
            vm.clock = clock;
        }
        if self.disk.is_some() {
            vm.disk.clone_from(&self.disk);
        }
        Ok(vm)
    }

    fn latency(&self) -> Duration {
        Duration::from_millis(self.latency)
    }

    fn host(&self) -> HostConfig {
        HostConfig {
            tap: self.tap.clone(),
            terminal: self.console,
            console_log: self.console_log.clone(),
            disk: DiskSettings {
                timeout: Duration::from_secs(self.disk_timeout),
                ..DiskSettings::default()
            },
        }
    }

    fn assemble(&self, verification: Verification) -> anyhow::Result<Guest> {
        Ok(Guest::assemble(&self.vm()?, &self.host(), verification)?)
    }
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("info,gdbstub=warn"),
    )
    .init();
    let result = run(&Cli::parse());
    Terminal::finish();
    Terminal::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ftvm: {error:#}");
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
        Command::Doctor(args) => doctor(args)?,
        Command::ProbeCounter(args) => probe_counter(args)?,
    }
    Ok(())
}

fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let report = crate::doctor::examine(crate::doctor::Effort::All);
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.verdict()?)
}

fn probe_counter(args: &ProbeCounterArgs) -> anyhow::Result<()> {
    match branch_counter::probe() {
        Ok(found) => println!(
            "performance counter: conditional branches as on {}; interrupts come up to {} late \
             (allowed for: {})",
            found.row.name, found.measured_skid, found.skid
        ),
        Err(error) => println!("performance counter: none: {:#}", anyhow::Error::new(error)),
    }
    for counting in [Counting::Instructions, Counting::Branches] {
        let trial = Trial {
            counting,
            interrupts: args.interrupts,
            seed: args.seed,
            distance: (counter_trial::HANDLER, args.distance),
        };
        tell_trial(counting, &trial.run()?);
    }
    Ok(())
}

fn tell_trial(counting: Counting, seen: &counter_trial::Seen) {
    let counted = match counting {
        Counting::Instructions => "instructions",
        Counting::Branches => "branches, by a counter made of single steps that stops late",
    };
    println!(
        "{counted}: no difference: {} interrupts at stops and {} at windows, {} stops, {} exits; \
         compared {} register sets, {} pages of memory; a log with one stop moved by one \
         was found out; the guest was the same as a free one at {} exits",
        seen.at_stops,
        seen.at_windows,
        seen.stops,
        seen.exits,
        seen.registers,
        seen.pages,
        seen.unseen
    );
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
    let events = args.events.open()?;
    let guest = args.guest.assemble(Verification::default())?;
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
    let events = args.events.open()?;
    let guest = args.guest.assemble(verification)?;
    outcome::stop_on_signals(&guest.host.lanes)?;
    let ended = roles::run_recording(
        guest,
        &args.log,
        verification,
        args.digests.pace(&args.guest),
        &events,
    )?;
    events.emit(&Event::Ended {
        reason: format!("{:?}", ended.reason),
        exits: ended.exits,
    });
    let bytes = std::fs::metadata(&args.log).map_or(0, |m| m.len());
    log::info!("recorded to {}: {bytes} bytes", args.log.display());
    report(ended)
}

fn primary(args: &PrimaryArgs) -> anyhow::Result<()> {
    let events = args.pair.events.open()?;
    let options = PrimaryOptions {
        listen: args.listen,
        arbiter: ArbiterConfig {
            server: args.pair.disk_server.clone(),
            force: args.force,
        },
        channel: Settings {
            heartbeat_timeout: Duration::from_millis(args.heartbeat_timeout),
            max_lag: Duration::from_millis(args.max_lag),
            ..Settings::default()
        },
        backup_reads: args.backup_reads == BackupReads::Disk,
        pace: args.digests.pace(&args.guest),
        never_repair: args.never_repair,
        break_output_rule: args.break_output_rule,
    };
    let cancel = outcome::cancel_on_signals()?;
    let ended = roles::run_primary(
        &args.guest.vm()?,
        &args.guest.host(),
        &options,
        &events,
        outcome::halt_process(),
        &cancel,
        |guest| outcome::stop_on_signals_or_warn(&guest.host.lanes),
    );
    finish(&events, ended)
}

fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let events = args.pair.events.open()?;
    let options = BackupOptions {
        connect: args.connect,
        connect_timeout: Duration::from_secs(args.connect_timeout),
        arbiter: ArbiterConfig {
            server: args.pair.disk_server.clone(),
            force: false,
        },
        channel: Settings::default(),
        latency: args.guest.latency(),
        sabotage: args.sabotage.map(|target| Plan {
            target,
            after: Duration::from_secs(args.sabotage_after),
        }),
    };
    let ended = roles::run_backup(
        &args.guest.vm()?,
        &args.guest.host(),
        &options,
        &events,
        outcome::halt_process(),
        outcome::stop_on_signals_or_warn,
    );
    finish(&events, ended)
}

fn finish(events: &Events, ended: Result<Ended, roles::RoleError>) -> anyhow::Result<()> {
    let (reason, exits) = match &ended {
        Ok(ended) => (format!("{:?}", ended.reason), ended.exits),
        Err(e) => (format!("Failed: {e}"), 0),
    };
    events.emit(&Event::Ended { reason, exits });
    report(ended?)
}
