//! What all commands that run a guest have in common.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use transport::Endpoint;

use super::keys::KeyArgs;
use super::number::number;
use crate::assembly::{Guest, HostConfig};
use crate::config::{Clock, MEMORY_MIB, Mac, VmConfig, plain_name};
use crate::disk::serving::DiskSettings;
use crate::disk::uri::DiskUri;
use crate::doctor::Purpose;
use crate::sources::Verification;

/// What a guest needs that is replicated, recorded or replayed.
#[derive(Args)]
pub(super) struct ReplicationArgs {
    /// Go on where the processor translates the guest's addresses by itself (nested paging). Both hosts of
    /// a pair, and a recording's replay, then differ as soon as the guest looks at what the processor
    /// does by itself, which Linux does when memory gets scarce: see `ftvm doctor`.
    #[arg(long)]
    allow_nested_paging: bool,
}

impl ReplicationArgs {
    pub(super) fn purpose(&self) -> Purpose {
        Purpose::Replication {
            allow_nested_paging: self.allow_nested_paging,
        }
    }
}

/// The guest and its connections on this host.
#[derive(Args)]
pub(super) struct GuestArgs {
    /// Configuration file of the virtual machine (TOML); options override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the virtual machine.
    #[arg(long, value_parser = plain_name)]
    name: Option<String>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", value_parser = number(MEMORY_MIB))]
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
    /// Clock of the guest's kernel [default: kvm-clock, or the configuration file's]
    #[arg(long)]
    clock: Option<Clock>,
    /// Disk of the guest: an export of a disk server. Both hosts of a pair name the same one.
    #[arg(long, value_name = "nbd://HOST[:PORT]/EXPORT")]
    disk: Option<DiskUri>,
    /// How long a request to the disk is tried while the disk server does not answer, before the
    /// guest gets an I/O error, in seconds.
    #[arg(long, value_name = "S", default_value_t = DiskSettings::TIMEOUT.as_secs(), value_parser = number(1..=86_400))]
    disk_timeout: u64,
    /// TAP interface that joins the guest to the client network.
    #[arg(long, value_name = "INTERFACE")]
    tap: Option<String>,
    /// How long an input waits for a guest that computes without an exit before the guest is
    /// stopped for it, in milliseconds. Replicated, a stop costs a state delta where the host has
    /// no performance counter.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = number(1..=10_000))]
    latency: u64,
    /// Attach this terminal to the guest's console (Ctrl-A x ends it).
    #[arg(long)]
    console: bool,
    /// Append the guest's console output to a file.
    #[arg(long, value_name = "FILE")]
    console_log: Option<PathBuf>,
}

impl GuestArgs {
    pub(super) fn vm(&self) -> anyhow::Result<VmConfig> {
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

    /// The file that describes it.
    pub(super) fn description(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The file that its console's output is appended to.
    pub(super) fn console_log(&self) -> Option<&Path> {
        self.console_log.as_deref()
    }

    /// Whether a person has this terminal on the guest.
    pub(super) fn is_interactive(&self) -> bool {
        self.console
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency)
    }

    /// Whether the guest has this process's terminal.
    pub(super) fn has_console(&self) -> bool {
        self.console
    }

    pub(super) fn host(&self, purpose: Purpose, endpoint: Endpoint) -> HostConfig {
        HostConfig {
            purpose,
            tap: self.tap.clone(),
            terminal: self.console,
            console_log: self.console_log.clone(),
            disk: DiskSettings {
                timeout: Duration::from_secs(self.disk_timeout),
                ..DiskSettings::default()
            },
            endpoint,
        }
    }

    pub(super) fn assemble(
        &self,
        purpose: Purpose,
        keys: &KeyArgs,
        verification: Verification,
    ) -> anyhow::Result<Guest> {
        let vm = self.vm()?;
        let endpoint = match vm.disk {
            Some(_) => keys.of_host()?,
            // It speaks with nobody, and needs no key.
            None => Endpoint::plain(),
        };
        Ok(Guest::assemble(
            &vm,
            &self.host(purpose, endpoint),
            verification,
        )?)
    }
}
