//! What the hosts of a pair are told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use disk_server::arbiter::{HostName, ServerAddress};
use logging_channel::{Keep, Settings};
use transport::{Endpoint, socket_address};

use super::events::EventsArgs;
use super::guest::{GuestArgs, ReplicationArgs};
use super::keys::KeyArgs;
use super::number::number;
use crate::config::{HEARTBEAT_TIMEOUT_MS, VmConfig};
use crate::roles::{ArbiterConfig, Force};
#[cfg(feature = "sabotage")]
use crate::sources::sabotage::Target;
use crate::sources::{Pace, TransferPace};

/// A cold backup asks for the guest's state anew when the log since then has so many bytes.
const MOST_LOG: u64 = 1 << 30;

/// Silence after which a host takes the other for lost, if nobody says.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(500);

/// How the guest's state is compared.
#[derive(Args)]
pub(super) struct DigestArgs {
    /// Time between two digests of the guest's state, which the replay compares, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = number(10..=3_600_000))]
    pub(super) digest_interval: u64,
}

impl DigestArgs {
    pub(super) fn pace(&self, guest: &GuestArgs) -> Pace {
        Pace {
            latency: guest.latency(),
            digest_interval: Duration::from_millis(self.digest_interval),
            ..Pace::default()
        }
    }
}

/// What both hosts of a pair need. A backup goes by the bounds and intervals when it has gone live.
#[derive(Args)]
pub(super) struct PairArgs {
    /// The disk server, which decides who may go on alone.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) disk_server: ServerAddress,
    /// What this host is called at the disk server [default: as the kernel has it].
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<HostName>,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
    /// Answer at a socket with this path how the guest is, hand it over, and give its console, to programs of
    /// this user; a line of JSON asks.
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
    /// A host's daemon looks after this process: SIGTERM and SIGINT are not for the guest, which is handed over to
    /// its backup. If none can go on with it, the process ends at once, as if its host had lost power.
    #[arg(long, hide = true)]
    pub(super) tended: bool,
    #[command(flatten)]
    pub(super) replication: ReplicationArgs,
    #[command(flatten)]
    pub(super) events: EventsArgs,
    #[command(flatten)]
    pub(super) digests: DigestArgs,
    /// How long an output, or a guest that is held up, may wait for a backup that is heard but does
    /// not get on, in milliseconds, before the backup is taken for lost; four times as long for one that
    /// gets on and does not catch up. Twice the heartbeat timeout and at least 1000 if not given.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(super) output_timeout: Option<u64>,
    /// How far the backup may lag before the guest is slowed, in milliseconds, beyond the round trip
    /// of the logging network.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = number(1..=600_000))]
    pub(super) max_lag: u64,
    /// For how long the guest may stand still at the end of a backup's join, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = number(1..=600_000))]
    pub(super) max_pause: u64,
    /// How much of the logging network a join may take, in MB/s. As much as there is if not given.
    #[arg(long, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) transfer_limit: Option<u64>,
    /// Slow the guest down while a backup joins if it writes faster than the network takes, which may
    /// never come to an end otherwise.
    #[arg(long)]
    pub(super) throttle_guest: bool,
    /// Where the backup gets what the guest reads from its disk: from the log, or from the disk
    /// itself, which spares the logging network and delays writes of what was just read. A cold backup
    /// gets it from the log.
    #[arg(long, value_enum, default_value_t)]
    pub(super) backup_reads: BackupReads,
}

impl PairArgs {
    /// The disk server, and who this host is there.
    pub(super) fn arbiter(&self, endpoint: Endpoint, force: Force) -> ArbiterConfig {
        ArbiterConfig {
            server: self.disk_server.clone(),
            endpoint,
            host: self.host.clone().unwrap_or_else(HostName::of_this_host),
            force,
        }
    }

    /// How a host protects the guest while it runs it, but for the heartbeat timeout.
    pub(super) fn channel(&self, guest: &GuestArgs) -> Settings {
        Settings {
            output_timeout: self.output_timeout.map(Duration::from_millis),
            max_lag: Duration::from_millis(self.max_lag),
            longest_step: guest.latency(),
            ..Settings::default()
        }
    }

    /// How often the guest's state is taken, and what that may cost.
    pub(super) fn pace(&self, guest: &GuestArgs) -> Pace {
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
pub(super) enum BackupReads {
    /// From the log.
    #[default]
    Log,
    /// From the disk.
    Disk,
}

#[derive(Args)]
pub(super) struct PrimaryArgs {
    #[command(flatten)]
    pub(super) guest: GuestArgs,
    #[command(flatten)]
    pub(super) pair: PairArgs,
    /// Address of the logging channel, where the backup connects (TCP, and UDP for heartbeats).
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    pub(super) listen: SocketAddr,
    /// Keep the guest from its first instruction until a backup has joined. Otherwise it begins at once and
    /// alone, and is protected when one has.
    #[arg(long)]
    pub(super) wait_for_backup: bool,
    /// Silence after which a host takes the other for lost, in milliseconds. Both use the
    /// primary's value [default: 500, or the configuration file's].
    #[arg(long, value_name = "MS", value_parser = number(HEARTBEAT_TIMEOUT_MS))]
    pub(super) heartbeat_timeout: Option<u64>,
    /// Start even if the disk server says that another host runs this guest; with an epoch, only as long
    /// as the guest is in that one. Only when that host is certainly gone.
    #[arg(long, value_name = "EPOCH", require_equals = true, value_parser = number(0..=u64::MAX))]
    #[expect(
        clippy::option_option,
        reason = "clap's way of an option whose value is optional"
    )]
    pub(super) force: Option<Option<u64>>,
    /// Never send the whole state to a backup that differs, to show what a failover does then.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    pub(super) never_repair: bool,
    /// Break the Output Rule, to show what it is for.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    pub(super) break_output_rule: bool,
}

impl PrimaryArgs {
    pub(super) fn heartbeat_timeout(&self, vm: &VmConfig) -> Duration {
        let timeout = self.heartbeat_timeout.or(vm.heartbeat_timeout_ms);
        timeout.map_or(HEARTBEAT_TIMEOUT, Duration::from_millis)
    }

    pub(super) fn force(&self) -> Force {
        match self.force {
            None => Force::No,
            Some(None) => Force::Yes,
            Some(Some(epoch)) => Force::From(epoch),
        }
    }
}

#[derive(Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub(super) guest: GuestArgs,
    #[command(flatten)]
    pub(super) pair: PairArgs,
    /// Address of the primary's logging channel. If not given, this host is idle until the disk server
    /// proposes it to a primary that wants a backup.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    pub(super) connect: Option<SocketAddr>,
    /// Where this host takes a new backup of the guest when it has gone live; if not given, at its
    /// address towards the primary, and the same port.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    pub(super) listen: Option<SocketAddr>,
    /// How long to try to reach the primary, in seconds.
    #[arg(long, value_name = "S", requires = "connect", default_value_t = 60, value_parser = number(0..=31_536_000))]
    pub(super) connect_timeout: u64,
    #[command(flatten)]
    pub(super) cold: ColdArgs,
    /// Flip a bit of this guest's memory, of a register, of a page table, or of a log entry, to show
    /// that it is found: of the next one of these at each SIGUSR1.
    #[cfg(feature = "sabotage")]
    #[arg(
        long,
        value_name = "memory|register|accessed-bit|window|entry",
        value_delimiter = ','
    )]
    pub(super) sabotage: Vec<Target>,
}

/// A backup that executes nothing.
#[derive(Args)]
pub(super) struct ColdArgs {
    /// Be a cold backup: keep the guest's state and its log in this directory, and execute that only
    /// when the primary is lost, or on SIGUSR2, after which this is a hot backup. It costs little of a
    /// processor and none of the guest's memory until then, and a failover takes as long as the replay.
    /// The directory needs room for twice the guest's memory, and for the log.
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) cold: Option<PathBuf>,
    /// Acknowledge what is on the disk, and not what is in memory: outputs wait for the disk.
    #[arg(long, requires = "cold")]
    pub(super) cold_durable: bool,
    /// How long the replay of the log may take before the cold backup asks for the guest's state anew,
    /// in seconds, as the guest's use of its processor says; or when the log has 1 GiB.
    #[arg(long, value_name = "S", requires = "cold", default_value_t = 60, value_parser = number(1..=86_400))]
    pub(super) cold_replay: u64,
}

impl ColdArgs {
    pub(super) fn keep(&self) -> Option<Keep> {
        Some(Keep {
            directory: self.cold.clone()?,
            durable: self.cold_durable,
            most_replay: Duration::from_secs(self.cold_replay),
            most_log: MOST_LOG,
            read_block: crate::state::read_block,
        })
    }
}
