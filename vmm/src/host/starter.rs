//! Starts a guest's process.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use disk_server::arbiter::{Arbiter, CallError, VmName};
use disk_server::fleet::{Answer, Definition, Operation};

use super::config::{Config, Keys};
use super::folders::{FolderError, Folders, GuestFolders};
use super::guest_file;
use super::images::{ImageError, Images};
use super::process::{self, Lock, Record, Watch};
use super::tending::{Guest, Task};
use crate::assembly::Footprint;
use crate::config::MEMORY_MIB;
use crate::io::BridgeError;

/// How many ports are tried for a guest's log.
const PORTS: u16 = 128;

/// How long a backup tries to reach its primary, in seconds, as an idle one does: after that the disk server is
/// to hear of it, which may propose another host.
const CONNECT_TIMEOUT_S: u32 = 5;

/// Where guests are connected to the network of their clients.
pub trait Network: Send + Sync {
    /// Makes a TAP interface there, anew if there is one that nobody uses.
    ///
    /// # Errors
    /// [`BridgeError`].
    fn add(&self, tap: &str) -> Result<(), BridgeError>;

    /// Removes it, if it is there.
    ///
    /// # Errors
    /// [`BridgeError`].
    fn remove(&self, tap: &str) -> Result<(), BridgeError>;
}

impl Network for crate::io::Bridge {
    fn add(&self, tap: &str) -> Result<(), BridgeError> {
        self.add_tap(tap)
    }

    fn remove(&self, tap: &str) -> Result<(), BridgeError> {
        crate::io::remove_tap(tap)
    }
}

/// Why a guest's process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("cannot get its definition")]
    Definition(#[from] CallError),
    #[error("the disk server answered something else than its definition")]
    Answer,
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "no port of {first} to {last} is free at {address}: see what listens there (`ss -ltnu`)",
        last = first.saturating_add(PORTS - 1)
    )]
    NoPort {
        address: std::net::IpAddr,
        first: u16,
    },
    #[error("it has a process here already")]
    StillThere { folders: GuestFolders },
    #[error("its configuration cannot be written")]
    Config(#[from] toml::ser::Error),
    #[error(transparent)]
    Network(#[from] BridgeError),
    #[error("cannot start ftvm")]
    Process(#[source] io::Error),
}

/// A process that was started.
pub(super) struct Started {
    pub(super) guest: Guest,
    pub(super) watch: Watch,
}

/// What starts the processes of a host, one after the other.
pub(super) struct Starter {
    pub(super) config: Config,
    pub(super) folders: Folders,
    pub(super) arbiter: Arbiter,
    pub(super) images: Images,
}

impl Starter {
    /// Starts what `task` says. `takes` hears how much memory that will have, as soon as it is known.
    pub(super) fn start(
        &mut self,
        task: &Task,
        network: &dyn Network,
        takes: impl FnOnce(u64),
    ) -> Result<Started, StartError> {
        let vm = task.vm();
        let definition = self.definition(vm)?;
        let memory_mib = footprint_mib(&definition);
        takes(memory_mib);
        let images = [Some(&definition.kernel), definition.initrd.as_ref()];
        for image in images.into_iter().flatten() {
            self.images.check(image)?;
        }
        let folders = self.folders.guest(vm)?;
        folders.make()?;
        let use_of = |path: PathBuf| move |source| FolderError::Use { path, source };
        let lock = Lock::take(&folders.lock()).map_err(use_of(folders.lock()))?;
        let Some(lock) = lock else {
            return Err(StartError::StillThere { folders });
        };
        let watch = Watch::on(&folders.lock()).map_err(use_of(folders.lock()))?;
        let mut record = Record {
            role: match task {
                Task::Start { .. } => "primary".to_owned(),
                Task::Join(_) => "backup".to_owned(),
            },
            tap: tap_name(vm),
            listen: self.port()?,
            memory_mib,
            pid: None,
            ended: None,
        };
        let config = guest_file::text(&definition)?;
        fs::write(folders.config(), config).map_err(use_of(folders.config()))?;
        // From here on a later daemon puts away what is left.
        let written = record.write(&folders.record());
        written.map_err(use_of(folders.record()))?;
        network.add(&record.tap)?;
        let command = self.command(task, &folders, &record)?;
        let child = process::start(command, lock).map_err(StartError::Process)?;
        record.pid = Some(child.id());
        if let Err(error) = record.write(&folders.record()) {
            // A later daemon lacks the number, and finds the process all the same.
            log::warn!("{}: {error}", folders.record().display());
        }
        Ok(Started {
            guest: Guest {
                claimant: None,
                memory_mib: record.memory_mib,
                pid: record.pid,
            },
            watch: watch.of_child(child),
        })
    }

    fn definition(&self, vm: &VmName) -> Result<Definition, StartError> {
        match self
            .arbiter
            .operate(Operation::Definition { vm: vm.clone() })?
        {
            Answer::Definition(definition) if definition.vm == *vm => Ok(*definition),
            _ => Err(StartError::Answer),
        }
    }

    /// The first port that no guest of this host has, and nobody else.
    fn port(&self) -> Result<SocketAddr, StartError> {
        let records = self.folders.guests()?.into_iter().filter_map(|vm| {
            let guest = self.folders.guest(&vm).ok()?;
            Record::read(&guest.record()).ok()
        });
        let taken: BTreeSet<u16> = records.map(|record| record.listen.port()).collect();
        let (address, first) = (self.config.logging_address, self.config.ports);
        let ports = (first..=first.saturating_add(PORTS - 1)).filter(|port| !taken.contains(port));
        let mut addresses = ports.map(|port| SocketAddr::new(address, port));
        let free = addresses
            .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok());
        free.ok_or(StartError::NoPort { address, first })
    }

    fn command(
        &self,
        task: &Task,
        folders: &GuestFolders,
        record: &Record,
    ) -> Result<Command, StartError> {
        folders.rotate()?;
        // Appended to, because the daemon may cut it.
        let mut log = File::options();
        let log = log.create(true).append(true).open(folders.log());
        let log = log.map_err(FolderError::of(&folders.log()))?;
        let mut command = Command::new(self.folders.program());
        command
            .args(arguments(&self.config, task, folders, record)?)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(StartError::Process)?)
            .stderr(log);
        Ok(command)
    }
}

/// What ftvm is told.
fn arguments(
    config: &Config,
    task: &Task,
    folders: &GuestFolders,
    record: &Record,
) -> Result<Vec<OsString>, FolderError> {
    let mut arguments = Vec::new();
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    option("--config", folders.config().into());
    option("--host", config.name.as_str().into());
    option("--disk-server", config.disk_server.as_str().into());
    if let Some(Keys { key, trust }) = &config.keys {
        option("--key", key.into());
        option("--trust", trust.into());
    }
    option("--listen", record.listen.to_string().into());
    option("--tap", record.tap.as_str().into());
    option("--control", folders.control()?.into());
    option("--events", folders.events().into());
    option("--console-log", folders.console().into());
    let role = match task {
        Task::Start { epoch, .. } => {
            // Whoever held that: the service says that nobody runs it. In a later epoch somebody may.
            arguments.push(format!("--force={epoch}").into());
            "primary"
        }
        Task::Join(proposal) => {
            option("--connect", proposal.address.to_string().into());
            option("--connect-timeout", CONNECT_TIMEOUT_S.to_string().into());
            "backup"
        }
    };
    if config.allow_nested_paging {
        arguments.push("--allow-nested-paging".into());
    }
    arguments.insert(0, role.into());
    arguments.push("--tended".into());
    if config.keys.is_none() {
        arguments.push("--plain".into());
    }
    Ok(arguments)
}

/// What a host with this configuration tells ftvm that is to carry out a task, with its first port and its
/// TAP interface as if it were the only guest.
///
/// # Errors
/// [`FolderError`].
pub fn command_line(config: &Config, task: &Task) -> Result<Vec<OsString>, FolderError> {
    let folders = Folders::at(&config.run, &config.state).guest(task.vm())?;
    let record = Record {
        role: String::new(),
        tap: tap_name(task.vm()),
        listen: SocketAddr::new(config.logging_address, config.ports),
        memory_mib: 0,
        pid: None,
        ended: None,
    };
    arguments(config, task, &folders, &record)
}

/// What a guest's TAP interface is called: of 15 bytes at most, and no other guest's. A long name is told by
/// its hash, which is longer than what is left to a short one.
fn tap_name(vm: &VmName) -> String {
    let name = vm.as_str();
    match name.len() < 10 {
        true => format!("ftvm-{name}"),
        false => {
            let hash = xxhash_rust::xxh64::xxh64(name.as_bytes(), 0);
            format!("ftvm-{:010x}", hash >> 24)
        }
    }
}

/// What a guest takes of a host's memory, in MiB. One that is too large to run is refused by its process.
fn footprint_mib(definition: &Definition) -> u64 {
    let memory = definition.memory_mib.min(*MEMORY_MIB.end()) << 20;
    Footprint::of(memory).of_backup().div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_has_the_guests_name_or_its_hash() {
        let tap = |name: &str| tap_name(&name.parse().expect("a name"));
        assert_eq!(tap("db"), "ftvm-db");
        let long = ["postgres-1", "postgres-2", "a-guest-with-a-long-name"].map(tap);
        assert!(long.iter().all(|tap| tap.len() == 15), "{long:?}");
        assert_ne!(long[0], long[1]);
    }
}
