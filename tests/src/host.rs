//! A host: a machine of the testbed that can run `ftvm`, and be killed.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use guest_images::libraries::{MachineLibraries, closure};
use parking_lot::Mutex;

use crate::client::{AgentClient, Output};
use crate::error::{Error, Result};
use crate::host_kind::HostKind;
use crate::layout::{HOST_AGENT, Layout};
use crate::machine::Machine;
use crate::network::{Fabric, Network};
use crate::paging::Paging;
use crate::plan::Plan;
use crate::process::HostProcess;
use crate::qemu::{ProcessId, Qemu};
use crate::wait::LIMIT;

/// A running host. It is killed when this value is dropped, unless it stays.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    fabric: Arc<Fabric>,
    machine: Machine,
    agent: AgentClient,
    images: PathBuf,
    logs: PathBuf,
    commands: AtomicU32,
    /// How often it has been booted.
    boots: u32,
    /// Links that are cut, for thawing not to heal them.
    cut: Mutex<BTreeSet<Network>>,
    stays: bool,
}

impl Host {
    /// Starts the machine; the boot goes on when this returns.
    pub(crate) fn start(fabric: &Arc<Fabric>, plan: &Plan<'_>) -> Result<Self> {
        fs::create_dir_all(plan.logs).map_err(|source| Error::File {
            path: plan.logs.to_owned(),
            source,
        })?;
        fabric.plug(plan.name, plan.kind)?;
        match Machine::start(plan) {
            Ok(machine) => Ok(Self::with(fabric, machine, plan)),
            Err(error) => {
                fabric.unplug(plan.name)?;
                Err(error)
            }
        }
    }

    /// A host that another process started.
    pub(crate) fn attach(fabric: &Arc<Fabric>, process: ProcessId, plan: &Plan<'_>) -> Self {
        let machine = Machine::Qemu(Qemu::attach(process, plan.logs, plan.name));
        Self::with(fabric, machine, plan)
    }

    fn with(fabric: &Arc<Fabric>, machine: Machine, plan: &Plan<'_>) -> Self {
        let images = match machine {
            Machine::Qemu(_) => PathBuf::from("/images"),
            Machine::Namespace(_) => plan.layout.images(),
        };
        Self {
            name: plan.name.to_owned(),
            number: plan.number,
            fabric: Arc::clone(fabric),
            agent: agent_of(&machine, plan),
            machine,
            images,
            logs: plan.logs.to_owned(),
            commands: AtomicU32::new(0),
            boots: 1,
            cut: Mutex::new(BTreeSet::new()),
            stays: plan.stays,
        }
    }

    /// Starts the machine of a dead host anew, as [`Host::start`] does it. Nothing is left of what it
    /// had in its memory.
    pub(crate) fn start_again(&mut self, plan: &Plan<'_>) -> Result<()> {
        // Its links, and what it has of a namespace, may be half alive.
        self.kill();
        self.fabric.unplug(&self.name)?;
        for path in plan.own_logs() {
            let aside = path.with_extension(format!("{}.log", self.boots));
            match fs::rename(&path, &aside) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(Error::File { path, source });
                }
                _ => {}
            }
        }
        self.fabric.plug(&self.name, plan.kind)?;
        self.machine = Machine::start(plan)?;
        self.agent = agent_of(&self.machine, plan);
        self.boots += 1;
        self.cut.lock().clear();
        Ok(())
    }

    /// Waits until the host has booted and its agent answers, and gives it this paging.
    ///
    /// # Errors
    ///
    /// When its machine ends, or the boot takes too long, and as [`Host::set_paging`].
    pub(crate) fn wait_until_up(&self, paging: Paging) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !(self.machine.has_booted() && self.agent.answers(Duration::from_millis(250))) {
            let seen = || self.machine.last_words();
            if !self.is_alive() {
                return Err(Error::Died {
                    host: self.name.clone(),
                    output: seen(),
                });
            }
            if Instant::now() > deadline {
                let what = format!("the boot of host {}", self.name);
                return Err(Error::Timeout {
                    what,
                    limit: LIMIT,
                    seen: seen(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // All are restored with the default, and what a Debian has is its owner's choice.
        if paging == Paging::default() {
            return Ok(());
        }
        self.set_paging(paging)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        match self.machine {
            Machine::Qemu(_) => HostKind::Qemu,
            Machine::Namespace(_) => HostKind::Namespace,
        }
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
        self.machine.process().alive()
    }

    /// Its agent, for requests that this type has no verb for.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Its console's log.
    #[must_use]
    pub fn console(&self) -> &Path {
        self.machine.console()
    }

    /// The path of a guest image, as the host sees it.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        self.images.join(name).to_string_lossy().into_owned()
    }

    pub(crate) fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.machine.process()
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

    /// Sends a line to a Unix socket of the host, and gives what is answered.
    ///
    /// # Errors
    ///
    /// As [`Host::check`].
    pub fn ask(&self, socket: &str, line: &str) -> Result<String> {
        let agent = self.provide(&Layout::find().program(HOST_AGENT)?, HOST_AGENT)?;
        self.check(&[&agent, "ask", socket, line])
    }

    /// Whether the host passes a check of its `ftvm doctor`: what a scenario expects follows from
    /// that, where hosts may differ.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or its doctor does not make this check.
    pub fn passes(&self, check: &str) -> Result<bool> {
        // Its exit status is that of the checks which guests need.
        let report = self.run(&["ftvm", "doctor", "--json"])?.stdout;
        passes(&report, check).ok_or_else(|| Error::Refused {
            host: self.name.clone(),
            reason: format!("no check `{check}` in the doctor's report: {report}"),
        })
    }

    /// Gives the host another paging; no guest may run there. A namespace has this machine's.
    ///
    /// # Errors
    ///
    /// When a guest runs there, the host does not answer, or it is a namespace.
    pub fn set_paging(&self, paging: Paging) -> Result<()> {
        if self.machine.shares_the_kernel() {
            return Err(Error::Refused {
                host: self.name.clone(),
                reason: "it is a namespace, and has the paging of this machine".to_owned(),
            });
        }
        self.check(&["rmmod", "kvm_amd"])?;
        let npt = format!("npt={}", paging.npt());
        self.check(&["insmod", "/modules/kvm_amd.ko", &npt])
            .map(drop)
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

    /// Makes a file of this machine available in the host, copied as `/tmp/<name>`
    /// where that is necessary, and gives its path there.
    ///
    /// # Errors
    ///
    /// As [`Host::put`].
    pub fn provide(&self, local: &Path, name: &str) -> Result<String> {
        let failed = |source| Error::File {
            path: local.to_owned(),
            source,
        };
        let local = local.canonicalize().map_err(failed)?;
        if self.machine.shares_the_kernel() && !local.starts_with("/tmp") {
            // Namespaces share the other files as well.
            return Ok(local.to_string_lossy().into_owned());
        }
        let remote = format!("/tmp/{name}");
        self.put(&local, &remote)?;
        Ok(remote)
    }

    /// Makes a program of this machine available in the host, under the same path, with those of
    /// its libraries that are not there.
    ///
    /// # Errors
    ///
    /// When it is not installed, or a library cannot be found, and as [`Host::put`].
    pub fn install(&self, program: &Path) -> Result<()> {
        if self.machine.shares_the_kernel() {
            return Ok(());
        }
        let libraries = closure(&[program.to_owned()], &mut MachineLibraries)
            .map_err(|error| Error::Image(error.into()))?;
        for (place, file) in libraries {
            let place = format!("/{place}");
            // Those that are in use must stay as they are.
            if !self.run(&["test", "-e", &place])?.exit.success() {
                self.put(&file, &place)?;
            }
        }
        self.install_file(program)
    }

    /// Makes a file of this machine available in the host, under the same path.
    ///
    /// # Errors
    ///
    /// As [`Host::put`].
    pub fn install_file(&self, path: &Path) -> Result<()> {
        if self.machine.shares_the_kernel() {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            self.check(&["mkdir", "-p", &directory.to_string_lossy()])?;
        }
        self.put(path, &path.to_string_lossy())
    }

    /// Copies a file out of the host.
    ///
    /// # Errors
    ///
    /// See [`AgentClient::get`].
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        self.agent.get(remote, local)
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

/// Reaches the agent of a machine.
fn agent_of(machine: &Machine, plan: &Plan<'_>) -> AgentClient {
    let process = machine.process();
    AgentClient::new(
        plan.name,
        plan.fabric.namespace().clone(),
        Network::Management.host_address(plan.number),
        move || process.alive(),
    )
}

/// Whether a check passed, by the doctor's report. `None` if it was not made.
fn passes(report: &str, check: &str) -> Option<bool> {
    let report: serde_json::Value = serde_json::from_str(report).ok()?;
    let mut checks = report["checks"].as_array()?.iter();
    match checks.find(|made| made["id"] == check)?["outcome"].as_str()? {
        "pass" => Some(true),
        "fail" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn only_a_check_that_was_made_passed_or_failed() {
        let report = r#"{"checks": [{"id": "counter", "outcome": "fail"},
            {"id": "x87_pointers", "outcome": "pass"}, {"id": "kick", "outcome": "skip"}]}"#;
        assert_eq!(passes(report, "counter"), Some(false));
        assert_eq!(passes(report, "x87_pointers"), Some(true));
        assert_eq!(passes(report, "kick"), None);
        assert_eq!(passes(report, "exits"), None);
        assert_eq!(passes("no report", "counter"), None);
    }
}
