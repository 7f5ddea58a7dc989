//! A host's daemon.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Signal;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::network::Network;
use crate::pair::{DiskServer, Side};
use crate::process::HostProcess;
use crate::wait::LIMIT;

/// Where it keeps what is about its guests, in the host.
const RUN: &str = "/tmp/ftvm-run";
/// Where its guests say what they do, in the host.
const STATE: &str = "/tmp/ftvm-state";
/// Where it tells metrics, at the host's address in the logging network.
const METRICS: u16 = 7423;
/// Its configuration, in the host.
const CONFIG: &str = "/tmp/host.toml";

/// `ftvm host` on a host. It is killed when this value is dropped; its guests run on.
#[derive(Debug)]
pub struct Daemon {
    host: String,
    process: HostProcess,
}

impl Daemon {
    /// Starts it, and waits until it looks after the host's guests.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or the daemon ends.
    pub fn start(host: &Host, service: &DiskServer) -> Result<Self> {
        Self::start_named(host, service, "ftvm")
    }

    /// The same, of another `ftvm`: a file of this machine.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`].
    pub fn start_as(host: &Host, service: &DiskServer, program: &Path) -> Result<Self> {
        let program = host.provide(program, "ftvm")?;
        Self::start_named(host, service, &program)
    }

    fn start_named(host: &Host, service: &DiskServer, program: &str) -> Result<Self> {
        let text = format!(
            "name = \"{}\"\ndisk_server = \"{}\"\nbridge = \"br0\"\nlogging_address = \"{}\"\n\
             metrics = \"{}:{METRICS}\"\nstate = \"{STATE}\"\nrun = \"{RUN}\"\n{}",
            host.name(),
            service.address(),
            host.address(Network::Logging),
            host.address(Network::Logging),
            service.key_configuration(),
        );
        let local = host
            .console()
            .with_file_name(format!("{}-host.toml", host.name()));
        fs::write(&local, text).map_err(|source| Error::File {
            path: local.clone(),
            source,
        })?;
        host.put(&local, CONFIG)?;
        let mut process = host.spawn(&[program, "host", "--config", CONFIG])?;
        process.wait_for_line("looks after guests", LIMIT)?;
        Ok(Self {
            host: host.name().to_owned(),
            process,
        })
    }

    /// The name of its host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Waits until it says something with this text.
    ///
    /// # Errors
    ///
    /// When it ends or `limit` passes before.
    pub fn says(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.process.wait_for_line(text, limit).map(drop)
    }

    /// Waits until it says that it speaks this version of the service's protocol.
    ///
    /// # Errors
    ///
    /// As [`Daemon::says`].
    pub fn speaks(&mut self, version: u16, limit: Duration) -> Result<()> {
        let words = format!("protocol {version} is spoken with the disk server");
        self.says(&words, limit)
    }

    /// Kills it, and nothing else.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn kill(self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(LIMIT).map(drop)
    }
}

/// What a host's daemon tells those who watch it, at this path; `None` where it answers with another status than 200.
///
/// # Errors
///
/// When the host does not answer.
pub fn watched(host: &Host, path: &str) -> Result<Option<String>> {
    let address = host.address(Network::Logging);
    let url = format!("http://{address}:{METRICS}{path}");
    let output = host.run(&["wget", "-q", "-O", "-", &url])?;
    Ok(output.exit.success().then_some(output.stdout))
}

/// What a host's daemon knows of a guest's process there, with its number: another one if it is started anew.
///
/// # Errors
///
/// When the host does not answer, or has none.
pub fn process_of(host: &Host, vm: &str) -> Result<String> {
    host.check(&["cat", &format!("{RUN}/guests/{vm}/process.json")])
}

/// Has a host's daemon start its guests with another program from now on: a file of the host.
///
/// # Errors
///
/// When the host does not answer.
pub fn start_guests_with(host: &Host, program: &str) -> Result<()> {
    let name = format!("{RUN}/ftvm");
    host.check(&["ln", "-sf", program, &name]).map(drop)
}

/// Sends a signal to the process of a guest on a host, by its name for kill(1).
///
/// # Errors
///
/// When the host does not answer, or has no such process.
pub fn signal_guest(host: &Host, vm: &str, signal: &str) -> Result<()> {
    let told = process_of(host, vm)?;
    let record: serde_json::Result<Value> = serde_json::from_str(&told);
    let pid = record.ok().and_then(|record| record["pid"].as_u64());
    let pid = pid.ok_or_else(|| Error::Wrong {
        what: format!("{vm} has no process on host {}", host.name()),
        seen: told,
    })?;
    host.check(&["kill", "-s", signal, &pid.to_string()])
        .map(drop)
}

/// The process of a guest that a host's daemon looks after.
///
/// # Errors
///
/// When the host does not answer.
pub fn side_of(host: &Host, vm: &str) -> Result<Side> {
    let [events, log] = ["events", "log"].map(|file| format!("{STATE}/guests/{vm}/{file}"));
    Side::followed(host, &events, &log)
}

/// What the last process of a guest on a host said, for a scenario that failed.
///
/// # Errors
///
/// When the host does not answer.
pub fn log_of(host: &Host, vm: &str) -> Result<String> {
    let path = format!("{STATE}/guests/{vm}/log");
    Ok(host.run(&["tail", "-n", "30", &path])?.stdout)
}
