//! Puts a guest together: machine, memory, images, devices.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use logging_channel::{DiskIdentity, HostReport, Identity, Seed};
use transport::Endpoint;

use crate::boot::{BootError, BootImages, seed};
use crate::config::{Clock, VmConfig};
use crate::cpu::{CpuError, CpuState};
use crate::devices::Devices;
use crate::disk::guest_disk::{DiskOpenError, GuestDisk};
use crate::disk::serving::DiskSettings;
use crate::doctor::{self, Purpose, Report, Unfit};
use crate::engine::tally::ExitTally;
use crate::engine::{Engine, Role};
use crate::events::{Event, Events};
use crate::io::{ConsoleSink, Outlet, Tap, TapError, Terminal, TerminalError};
use crate::kvm::counting::{FreeCpu, HardwareCounter, HardwareCountingCpu};
use crate::kvm::{Machine, MachineError, Paging, shadow_page_bytes};
use crate::ram::{self, GuestRam, NotEnough, Room};
use crate::sources::{Lanes, TSC_KHZ, Verification, Watchdog};
use crate::state::{Baseline, NoRoom};
use crate::traps::TscTrap;

/// What the guest is for on this host, and how it is connected there.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// What it is for.
    pub purpose: Purpose,
    /// TAP interface.
    pub tap: Option<String>,
    /// Attach this process's terminal to the console.
    pub terminal: bool,
    /// Append console output to this file.
    pub console_log: Option<PathBuf>,
    /// How patient the guest's disk is.
    pub disk: DiskSettings,
    /// This host's key for connections, and whose keys it trusts.
    pub endpoint: Endpoint,
}

/// Why a guest could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The images are wrong.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The host's KVM does not do what guests need.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The host cannot run it.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The network cannot be connected.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The guest's state cannot be followed.
    #[error(transparent)]
    Tracking(#[from] CpuError),
    /// There is less memory than the guest is to have.
    #[error(transparent)]
    NotEnough(#[from] NotEnough),
    /// There is no room for what state transfers and digests keep of guest memory.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The guest cannot be stopped when it makes no exits.
    #[error("cannot handle the signal by which a guest is stopped")]
    Watchdog(#[source] std::io::Error),
    /// The console cannot be connected.
    #[error(transparent)]
    Console(#[from] TerminalError),
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskOpenError),
}

/// A guest that has not run yet, and this host's connections to it.
pub struct Guest {
    cpu: HardwareCountingCpu,
    devices: Devices,
    traps: TscTrap,
    /// Its memory.
    pub memory: GuestRam,
    /// What it is, for a peer to compare.
    pub identity: Identity,
    /// What this host can do, for a peer to compare.
    pub host_report: HostReport,
    /// Ethernet address of its card.
    pub mac: [u8; 6],
    /// Its counter of stops, opened ahead.
    counter: Option<Result<HardwareCounter, CpuError>>,
    /// Its disk, not served yet. A replay has none, also where the guest has one.
    pub disk: Option<GuestDisk>,
    /// The host's connections.
    pub host: HostSide,
}

/// What a guest is made of and connected with, as far as this host has it: whatever is wrong with that
/// shows before anything is asked for elsewhere, or run.
pub struct Parts {
    images: BootImages,
    host: HostSide,
    report: Report,
    purpose: Purpose,
}

impl Parts {
    /// Reads images, connects with this host, and tries out whether it can do what is asked of it.
    ///
    /// # Errors
    /// [`AssemblyError`].
    pub fn open(config: &VmConfig, host: &HostConfig) -> Result<Self, AssemblyError> {
        let images = BootImages::open(
            &config.kernel,
            config.initrd.as_deref(),
            &config.command_line(),
            config.clock.kernel_reads(),
            config.memory_bytes(),
        )?;
        let purpose = host.purpose;
        let host = HostSide::connect(host, config.mac.0)?;
        Ok(Self {
            images,
            host,
            report: doctor::require_fit(purpose)?,
            purpose,
        })
    }
}

/// This host's connections to a guest.
pub struct HostSide {
    /// The lanes for its inputs.
    pub lanes: Lanes,
    /// What the guest's exits on this host were for.
    pub exits: ExitTally,
    /// The way out for its outputs.
    pub outlet: Outlet,
    /// Whether inputs are handed over.
    pub live: Arc<AtomicBool>,
    terminal: Option<Terminal>,
    wants_terminal: bool,
}

impl Guest {
    /// Puts together the guest of `config`, connected as `host` says. It gets inputs from this
    /// host's interfaces as soon as [`HostSide::live`] is set.
    ///
    /// # Errors
    /// [`AssemblyError`].
    pub fn assemble(
        config: &VmConfig,
        host: &HostConfig,
        verification: Verification,
    ) -> Result<Self, AssemblyError> {
        Self::of_parts(Parts::open(config, host)?, config, host, verification)
    }

    /// The same, of parts that are there already.
    ///
    /// # Errors
    /// [`AssemblyError`].
    pub fn of_parts(
        parts: Parts,
        config: &VmConfig,
        host: &HostConfig,
        verification: Verification,
    ) -> Result<Self, AssemblyError> {
        let disk = match &config.disk {
            None => None,
            Some(uri) => Some(GuestDisk::open(
                uri,
                &config.name,
                &host.endpoint,
                host.disk,
            )?),
        };
        let identity = disk.as_ref().map(GuestDisk::identity);
        let guest = Self::put_together(config, parts, verification, identity)?;
        Ok(Self { disk, ..guest })
    }

    /// Puts together the guest of `config` for a replay, with the disk that the log has, if it has
    /// one: what that held is in the log. The network that `host` has gets nothing of it, and is left
    /// alone.
    ///
    /// # Errors
    /// [`AssemblyError`].
    pub fn assemble_for_replay(
        config: &VmConfig,
        host: &HostConfig,
        verification: Verification,
        disk: Option<DiskIdentity>,
    ) -> Result<Self, AssemblyError> {
        let host = HostConfig {
            tap: None,
            ..host.clone()
        };
        Self::put_together(config, Parts::open(config, &host)?, verification, disk)
    }

    fn put_together(
        config: &VmConfig,
        parts: Parts,
        verification: Verification,
        disk: Option<DiskIdentity>,
    ) -> Result<Self, AssemblyError> {
        let Parts {
            images,
            host,
            report,
            purpose,
        } = parts;
        let mut machine = Machine::new(config.memory_bytes(), config.clock)?;
        let entry = images.load(machine.memory())?;
        machine.enter_at(&entry)?;
        log::info!(
            "{}: {} MiB, {} time stamp counter reads of the kernel rewritten, {} of them cached",
            config.name,
            config.memory_mib,
            images.sites().tsc.len(),
            images.sites().copy.map_or(0, |copy| copy.reads)
        );
        let memory = machine.memory().clone();
        let identity = Identity {
            vm: config.name.clone(),
            image: config.image_digest(images.digest()),
            cpu: machine.cpu_model().digest(),
            memory_bytes: config.memory_bytes(),
            tsc_khz: TSC_KHZ,
            arbiter: None,
            disk,
        };
        let devices = Devices::new(&memory, config.mac.0);
        let devices = match &identity.disk {
            Some(disk) => devices.with_disk(disk.bytes),
            None => devices,
        };
        let devices = match config.clock {
            Clock::Jiffies => devices,
            Clock::PmTimer | Clock::KvmClock | Clock::KvmClockExact => devices.with_merged_ticks(),
        };
        let traps = TscTrap::new(images.sites(), memory.clone());
        let devices = if traps.cache.is_read() {
            devices.without_clock_for_programs()
        } else {
            devices
        };
        let mut cpu = machine.into_cpu();
        if verification == Verification::EveryExit {
            cpu.sync_control_registers();
        }
        Ok(Self {
            cpu: HardwareCountingCpu::new(FreeCpu::new(cpu)),
            devices,
            traps,
            memory,
            identity,
            host_report: report.for_peer(purpose),
            mac: config.mac.0,
            counter: None,
            disk: None,
            host: host.with_terminal()?,
        })
    }

    /// Gives it what its random numbers begin with: on both hosts, and in a replay, the same.
    ///
    /// # Errors
    /// [`AssemblyError::Boot`] if its memory has no room for that.
    pub fn seed(&self, seed: Seed) -> Result<(), AssemblyError> {
        let planted = seed::plant(&self.memory, seed.bytes());
        Ok(planted.map_err(|error| BootError::Load(error.to_string()))?)
    }

    /// Opens this host's performance counter where there is one, for [`Guest::count_stops`] on the same thread:
    /// while this process may.
    pub fn open_counter(&mut self) {
        if doctor::has_counter(&self.host_report) {
            self.counter = Some(HardwareCounter::open());
        }
    }

    /// Names stops between two exits by this host's performance counter, and emits an event if that
    /// ends, as it does at once if the counter is gone since the doctor looked. To be called on the
    /// thread that will run the guest, where [`crate::doctor::has_counter`] says that there is one.
    pub fn count_stops(&mut self, events: &Events) {
        let events = events.clone();
        self.cpu.tell_loss(move |reason| {
            events.emit(&Event::CounterLost {
                reason: reason.to_owned(),
            });
        });
        let counter = self.counter.take();
        if (self.cpu).count_with(counter.unwrap_or_else(HardwareCounter::open)) {
            log::info!("stops of a computing guest are named by the performance counter");
        }
    }

    /// What it takes of this host's memory once it has a [`Guest::baseline`].
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        Footprint::of(self.identity.memory_bytes)
    }

    /// How much of its memory is there already, in bytes: the images' place.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        ram::resident_bytes(&self.memory)
    }

    /// Pins the guest's memory and begins to track what the guest changes, for state transfers and
    /// digests. Says what may still move a page, and if what this keeps of its memory may come to more
    /// than the host has.
    ///
    /// # Errors
    /// [`AssemblyError`].
    pub fn baseline(&mut self) -> Result<Baseline, AssemblyError> {
        for loose in ram::pin(&self.memory)? {
            log::warn!("{loose}");
        }
        let Footprint { kept, tables, .. } = self.footprint();
        let room = Room::left();
        if room.bytes < kept + tables {
            log::warn!(
                "{room}, and what is kept of the guest's memory may come to {} MiB, KVM's shadow pages to \
                 {} MiB: once that is more than there is, Linux kills ftvm; make room, or give the guest \
                 less",
                kept >> 20,
                tables >> 20
            );
        }
        self.cpu.track_writes()?;
        Ok(Baseline::new(self.memory.clone())?)
    }

    /// The engine that runs it in `role`.
    #[must_use]
    pub fn into_engine(self, role: Role) -> Engine<HardwareCountingCpu> {
        Engine::new(self.cpu, self.devices, self.traps, role).with_tally(self.host.exits)
    }
}

/// What a replicated guest takes of a host's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The guest's own, which is locked.
    pub memory: u64,
    /// What state transfers and digests keep of it.
    pub kept: u64,
    /// The most that KVM's shadow pages may come to: a guest that is not out for it needs some megabytes.
    pub tables: u64,
}

/// What the log and the state take of a host's memory on their way to a backup: of one that had joined a guest
/// of 128 MiB under a client's load it was seen to be 20 to 32 MiB, with a megabyte of KVM's tables.
const BUFFERS: u64 = 32 << 20;

impl Footprint {
    /// Of a guest with so many bytes of memory, on a host like this one.
    #[must_use]
    pub fn of(memory: u64) -> Self {
        Self {
            memory,
            kept: Baseline::most_bytes(memory),
            tables: match Paging::of_host() {
                Paging::Shadow => shadow_page_bytes(memory),
                Paging::Nested => 0,
            },
        }
    }

    /// What a backup takes that is not out for more.
    #[must_use]
    pub fn of_backup(&self) -> u64 {
        self.memory + self.kept + BUFFERS
    }
}

/// A watchdog for a guest that runs on this thread.
pub(crate) fn watchdog(interval: Duration) -> Result<Watchdog, AssemblyError> {
    Watchdog::start(interval).map_err(AssemblyError::Watchdog)
}

impl HostSide {
    fn connect(host: &HostConfig, mac: [u8; 6]) -> Result<Self, AssemblyError> {
        let lanes = Lanes::default();
        let live = Arc::new(AtomicBool::new(false));
        let tap = (host.tap.as_deref()).map(|name| Tap::open(name, mac));
        let tap = tap.transpose()?;
        if let Some(tap) = &tap {
            tap.receive_into(lanes.frames.clone(), live.clone());
        }
        let console = ConsoleSink::open(host.terminal, host.console_log.as_deref())?;
        Ok(Self {
            lanes,
            exits: ExitTally::default(),
            outlet: Outlet::new(tap, console),
            live,
            terminal: None,
            wants_terminal: host.terminal,
        })
    }

    /// The same, with the terminal if it is wanted: the last connection, because errors are told on
    /// it.
    fn with_terminal(mut self) -> Result<Self, TerminalError> {
        if self.wants_terminal {
            self.terminal = Some(Terminal::attach(&self.lanes, self.live.clone())?);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_takes_less_than_the_guests_memory_a_tenth_and_its_buffers() {
        for mib in [32_u64, 128, 1024, 3072] {
            let memory = mib << 20;
            let taken = Footprint::of(memory).of_backup() - BUFFERS;
            assert!(taken > memory + memory / 20, "{mib} MiB: {taken}");
            assert!(taken < memory + memory / 10, "{mib} MiB: {taken}");
        }
    }
}
