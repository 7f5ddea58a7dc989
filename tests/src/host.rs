//! A host: a machine of the testbed that can run `ftvm`, and be killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{AgentClient, Output};
use crate::error::{Error, Result};
use crate::image::HostImage;
use crate::network::{Fabric, Network};
use crate::process::HostProcess;
use crate::qemu::{Machine, ProcessId, Qemu};

/// A boot takes 5 to 9 s; on a busy machine it may take much longer.
const BOOT: Duration = Duration::from_secs(120);

/// A running host. It is killed when this value is dropped, unless it stays.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    fabric: Arc<Fabric>,
    qemu: Qemu,
    agent: AgentClient,
    logs: PathBuf,
    commands: AtomicU32,
    stays: bool,
}

impl Host {
    /// Starts QEMU; the boot goes on when this returns.
    pub(crate) fn start(
        fabric: &Arc<Fabric>,
        image: &HostImage,
        name: &str,
        number: u8,
        logs: &Path,
        stays: bool,
    ) -> Result<Self> {
        fs::create_dir_all(logs).map_err(|source| Error::File {
            path: logs.to_owned(),
            source,
        })?;
        fabric.plug(name)?;
        let machine = Machine {
            name,
            number,
            image,
            fabric: fabric.namespace(),
            logs,
            stays,
        };
        match Qemu::start(&machine) {
            Ok(qemu) => Ok(Self::with(fabric, qemu, name, number, logs, stays)),
            Err(error) => {
                fabric.unplug(name)?;
                Err(error)
            }
        }
    }

    /// A host that another process started.
    pub(crate) fn attach(
        fabric: &Arc<Fabric>,
        id: ProcessId,
        name: &str,
        number: u8,
        logs: &Path,
    ) -> Self {
        Self::with(
            fabric,
            Qemu::attach(id, logs, name),
            name,
            number,
            logs,
            true,
        )
    }

    fn with(
        fabric: &Arc<Fabric>,
        qemu: Qemu,
        name: &str,
        number: u8,
        logs: &Path,
        stays: bool,
    ) -> Self {
        let id = qemu.id();
        let agent = AgentClient::new(
            name,
            fabric.namespace().clone(),
            Network::Management.host_address(number),
            move || id.alive(),
        );
        Self {
            name: name.to_owned(),
            number,
            fabric: Arc::clone(fabric),
            qemu,
            agent,
            logs: logs.to_owned(),
            commands: AtomicU32::new(0),
            stays,
        }
    }

    /// Waits until the host has booted and its agent answers.
    ///
    /// # Errors
    ///
    /// When QEMU ends, or the boot takes too long.
    pub fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        // Before the console says so, nobody would answer.
        let booted = || {
            fs::read(self.qemu.console())
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains("ftvm-host: "))
        };
        loop {
            if booted() && self.agent.answers(Duration::from_millis(250)) {
                return Ok(());
            }
            if !self.qemu.alive() {
                return Err(Error::Died {
                    host: self.name.clone(),
                    output: self.qemu.last_words(),
                });
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("the boot of host {}", self.name),
                    limit: BOOT,
                    seen: self.qemu.last_words(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its address on a network.
    #[must_use]
    pub fn address(&self, network: Network) -> Ipv4Addr {
        network.host_address(self.number)
    }

    /// Whether it runs (or is frozen).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.qemu.alive()
    }

    /// Its agent, for requests that this type has no verb for.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Its console's log.
    #[must_use]
    pub fn console(&self) -> &Path {
        self.qemu.console()
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.qemu.id()
    }

    /// Runs a command to its end, whatever its exit status.
    ///
    /// Busybox's shell prefers its own applets: in `sh -c` scripts, Debian's
    /// `ip` and `tc` are `/usr/sbin/ip` and `/usr/sbin/tc`.
    ///
    /// # Errors
    ///
    /// When the host does not answer or cannot start the command.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.agent.run(argv)
    }

    /// Runs a command that must succeed, and gives its standard output.
    ///
    /// # Errors
    ///
    /// As [`Host::run`], and when the command fails.
    pub fn check(&self, argv: &[&str]) -> Result<String> {
        let output = self.run(argv)?;
        if output.exit.success() {
            return Ok(output.stdout);
        }
        Err(Error::Failed {
            host: self.name.clone(),
            command: argv.join(" "),
            exit: output.exit,
            output: format!("{}{}", output.stdout, output.stderr),
        })
    }

    /// Whether one ping is answered within a second.
    ///
    /// # Errors
    ///
    /// When the host's agent does not answer.
    pub fn pings(&self, address: Ipv4Addr) -> Result<bool> {
        let address = address.to_string();
        Ok(self
            .run(&["ping", "-c", "1", "-W", "1", &address])?
            .exit
            .success())
    }

    /// Starts a command that goes on until it ends by itself, is signalled, or
    /// the value is dropped. What it prints is logged.
    ///
    /// # Errors
    ///
    /// When the host does not answer or the log cannot be made.
    pub fn spawn(&self, argv: &[&str]) -> Result<HostProcess> {
        self.spawn_with(argv, &BTreeMap::new())
    }

    /// As [`Host::spawn`], with environment variables.
    ///
    /// # Errors
    ///
    /// As [`Host::spawn`].
    pub fn spawn_with(&self, argv: &[&str], env: &BTreeMap<String, String>) -> Result<HostProcess> {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let program = argv
            .first()
            .map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        let path = self
            .logs
            .join(format!("{}-{number}-{program}.log", self.name));
        let log = File::create(&path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        self.agent.spawn(argv, env, Some(log))
    }

    /// Copies a file into the host.
    ///
    /// # Errors
    ///
    /// See [`AgentClient::put`].
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        self.agent.put(local, remote)
    }

    /// Copies a file out of the host.
    ///
    /// # Errors
    ///
    /// See [`AgentClient::get`].
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        self.agent.get(remote, local)
    }

    /// Kills the host at once, like a power failure.
    pub fn kill(&mut self) {
        self.qemu.kill();
    }

    /// Stops the host's time: it does nothing and answers nothing.
    pub fn freeze(&self) {
        self.qemu.signal(Signal::SIGSTOP);
    }

    /// Lets a frozen host go on, as if no time had passed for it.
    pub fn thaw(&self) {
        self.qemu.signal(Signal::SIGCONT);
    }

    /// Cuts the host's link to a network. The host does not notice: its
    /// interface stays up, and nothing comes or goes.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    ///
    /// # Panics
    ///
    /// For the management network, which stays for the testbed's own use.
    pub fn cut(&self, network: Network) -> Result<()> {
        assert!(
            network != Network::Management,
            "the management network cannot be cut"
        );
        self.fabric.link(&self.name, network, false)
    }

    /// Heals a link that was cut.
    ///
    /// # Errors
    ///
    /// When the link cannot be changed.
    pub fn heal(&self, network: Network) -> Result<()> {
        self.fabric.link(&self.name, network, true)
    }

    /// Delays everything that the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn delay(&self, network: Network, by: Duration) -> Result<()> {
        self.netem(network, &["delay", &format!("{}us", by.as_micros())])
    }

    /// Loses a part (0.0 to 1.0) of what the host sends to a network.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn lose(&self, network: Network, part: f64) -> Result<()> {
        self.netem(network, &["loss", &format!("{}%", part * 100.0)])
    }

    /// Ends delay and loss.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or there was neither.
    pub fn undisturb(&self, network: Network) -> Result<()> {
        self.check(&["tc", "qdisc", "delete", "dev", network.name(), "root"])
            .map(drop)
    }

    fn netem(&self, network: Network, what: &[&str]) -> Result<()> {
        let mut argv = vec![
            "tc",
            "qdisc",
            "replace",
            "dev",
            network.name(),
            "root",
            "netem",
        ];
        argv.extend_from_slice(what);
        self.check(&argv).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        self.kill();
        if let Err(error) = self.fabric.unplug(&self.name) {
            // The whole fabric goes soon.
            log::debug!("host {}: its links stay: {error}", self.name);
        }
    }
}
