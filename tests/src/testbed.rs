//! A run: networks, hosts, and their logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host_kind::HostKind;
use crate::keys::{self, Keys};
use crate::layout::Layout;
use crate::network::{Fabric, Network, Position};
use crate::paging::Paging;
use crate::plan::{HostSize, Plan};
use crate::process::LocalProcess;
use crate::refused_calls;
use crate::run_lock::RunLock;

/// Variable that keeps the logs of successful runs too.
pub const KEEP_LOGS_VARIABLE: &str = "FTVM_KEEP_LOGS";

/// Networks and hosts of one run. All of it goes when this value and the
/// hosts are dropped; the logs stay unless [`Testbed::succeed`] was called.
#[derive(Debug)]
pub struct Testbed {
    layout: Layout,
    /// What hosts are.
    kind: HostKind,
    size: HostSize,
    paging: Paging,
    fabric: Arc<Fabric>,
    /// `None`: nobody has a key, and nobody asks for one.
    keys: Option<Keys>,
    hosts: AtomicU8,
    logs: PathBuf,
    succeeded: bool,
    // Dropped last: the lock tells others that the rest is in use.
    _lock: RunLock,
}

impl Testbed {
    /// Makes the networks of a run called `name`.
    ///
    /// # Errors
    ///
    /// When something is not set up (`cargo xtask setup`), or we are not root.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_hosts(name, HostKind::choose(&Layout::find()))
    }

    /// As [`Testbed::new`], with hosts of a certain kind.
    ///
    /// # Errors
    ///
    /// As [`Testbed::new`].
    pub fn with_hosts(name: &str, kind: HostKind) -> Result<Self> {
        let layout = Layout::find();
        let lock = RunLock::begin(&layout.live())?;
        let stamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let logs = layout.runs().join(format!("{name}-{stamp}-{}", lock.id()));
        fs::create_dir_all(&logs).map_err(|source| Error::File {
            path: logs.clone(),
            source,
        })?;
        let fabric = Arc::new(Fabric::create(lock.id())?);
        Ok(Self {
            layout,
            kind,
            size: HostSize::USUAL,
            paging: Paging::default(),
            fabric,
            keys: Some(Keys::make(&logs.join("keys"))?),
            hosts: AtomicU8::new(0),
            logs,
            succeeded: false,
            _lock: lock,
        })
    }

    /// The same, whose emulated hosts have so much memory, in MiB. They take of this machine's what
    /// they use.
    #[must_use]
    pub fn with_host_memory(mut self, memory_mib: u32) -> Self {
        self.size.memory_mib = memory_mib;
        self
    }

    /// The same, whose emulated hosts have so many processors.
    #[must_use]
    pub fn with_host_processors(mut self, processors: u32) -> Self {
        self.size.processors = processors;
        self
    }

    /// The same without keys, for clients that are not ours.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.keys = None;
        self
    }

    /// The same, whose emulated hosts have this paging.
    #[must_use]
    pub fn with_paging(mut self, paging: Paging) -> Self {
        self.paging = paging;
        self
    }

    /// Starts a host and waits until it is up.
    ///
    /// # Errors
    ///
    /// When it does not boot.
    pub fn start_host(&self, name: &str) -> Result<Host> {
        let [host] = self.start_hosts([name])?;
        Ok(host)
    }

    /// Starts several hosts at the same time, and waits until all are up.
    ///
    /// # Errors
    ///
    /// When one does not boot.
    pub fn start_hosts<const N: usize>(&self, names: [&str; N]) -> Result<[Host; N]> {
        let hosts: Vec<Host> = names
            .into_iter()
            .map(|name| self.boot_host(name, None))
            .collect::<Result<_>>()?;
        for host in &hosts {
            self.wait_until_up(host)?;
        }
        Ok(hosts.try_into().expect("one host for each name"))
    }

    /// Starts an emulated host whose processor is another one than usual in `features`, as QEMU's
    /// `-cpu` says it (`stepping=3,-adx`), and waits until it is up.
    ///
    /// # Errors
    ///
    /// When it does not boot.
    pub fn start_host_with_processor(&self, name: &str, features: &str) -> Result<Host> {
        let host = self.boot_host(name, Some(features))?;
        self.wait_until_up(&host)?;
        Ok(host)
    }

    /// Boots a dead host again and waits until it is up: the same name and addresses, and nothing left
    /// of what was in it but the disk of a Debian.
    ///
    /// # Errors
    ///
    /// When it does not boot.
    pub fn boot_again(&self, host: &mut Host) -> Result<()> {
        let name = host.name().to_owned();
        host.start_again(&self.plan(&name, host.number(), None))?;
        self.wait_until_up(host)
    }

    fn wait_until_up(&self, host: &Host) -> Result<()> {
        host.wait_until_up(self.paging)?;
        self.keys.iter().try_for_each(|keys| keys.give(host))
    }

    fn boot_host(&self, name: &str, processor: Option<&str>) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        Host::start(&self.fabric, &self.plan(name, number, processor))
    }

    fn plan<'a>(&'a self, name: &'a str, number: u8, processor: Option<&'a str>) -> Plan<'a> {
        Plan {
            kind: self.kind,
            name,
            number,
            fabric: &self.fabric,
            layout: &self.layout,
            size: self.size,
            processor,
            logs: &self.logs,
            stays: false,
        }
    }

    /// Cuts a host's link; see [`Host::cut`].
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn cut(&self, host: &Host, network: Network) -> Result<()> {
        host.cut(network)
    }

    /// Heals a host's link.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn heal(&self, host: &Host, network: Network) -> Result<()> {
        host.heal(network)
    }

    /// Where clients of the guest run.
    #[must_use]
    pub fn client(&self) -> &Position {
        self.fabric.client()
    }

    /// Where the disk server runs.
    #[must_use]
    pub fn disk(&self) -> &Position {
        self.fabric.disk()
    }

    /// Everybody's keys; `None` where all is plain.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Starts the disk server at a position with arguments, and its key; a `program` that takes the same
    /// arguments is started instead. What it prints is logged.
    ///
    /// # Errors
    ///
    /// When it was not built or cannot be started.
    pub fn start_disk_server(
        &self,
        position: &Position,
        program: Option<&Path>,
        arguments: &[&str],
    ) -> Result<LocalProcess> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => self.layout.program("disk-server")?,
        };
        let path = self.logs.join("disk-server.log");
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let mut command = position.command(&program.to_string_lossy())?;
        command
            .args(arguments)
            .args(keys::on_this_machine(self.keys(), keys::DISK_SERVER))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        LocalProcess::start(command)
    }

    /// Where logs and other files of the run are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The networks.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Ends a run that went well: its logs are not needed.
    ///
    /// # Panics
    ///
    /// When a host's kernel refused one of our programs a system call.
    pub fn succeed(mut self) {
        let refused = refused_calls::of(&self.logs);
        assert!(
            refused.is_empty(),
            "these are missing in crate `confinement`: {refused:#?}"
        );
        self.succeeded = true;
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.succeeded && std::env::var_os(KEEP_LOGS_VARIABLE).is_none() {
            if let Err(error) = fs::remove_dir_all(&self.logs) {
                log::warn!("{} stays: {error}", self.logs.display());
            }
        } else {
            eprintln!("logs: {}", self.logs.display());
        }
    }
}
