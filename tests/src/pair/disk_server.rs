//! The disk server, at its place on the storage network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use disk_server::arbiter::{Arbiter, Settings};
use disk_server::fleet::{Definition, Image, ImageDigest, LagBounds, NamedHosts, Operation};
use disk_server::views::Text;
use parking_lot::Mutex;
use transport::Endpoint;

use crate::Signal;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::{self, TESTBED};
use crate::netns::output;
use crate::network::Position;
use crate::process::LocalProcess;
use crate::testbed::Testbed;
use crate::wait::{LIMIT, wait_until};

/// Where the hosts claim the right to run a guest.
const PORT: u16 = 7070;
/// Where its images are served: the port that IANA gives to NBD.
const NBD_PORT: u16 = 10809;
/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);

/// An image that the disk server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// By this name.
    pub name: String,
    /// A file of this machine.
    pub image: PathBuf,
    /// The guest whose disk it is: nobody else writes to it while that runs.
    pub guest: Option<String>,
}

impl Export {
    /// The value of `--export`.
    fn argument(&self) -> String {
        let owner = self.guest.as_ref();
        let owner = owner.map_or_else(String::new, |guest| format!(",vm={guest}"));
        format!("{}={}{owner}", self.name, self.image.display())
    }
}

/// The disk server, which can be killed and started again on the same state.
#[derive(Debug)]
pub struct DiskServer {
    /// The machine that it runs on.
    position: Position,
    address: String,
    state: PathBuf,
    exports: Vec<Export>,
    /// How an operator speaks with it; `None` where all is plain.
    operator: Option<Endpoint>,
    /// The guests that are defined there because a host was started for them.
    defined: Mutex<BTreeSet<String>>,
    /// Another program than `disk-server`.
    program: Option<PathBuf>,
    process: LocalProcess,
}

impl DiskServer {
    /// Starts it, with a fresh state and without images, and waits until it takes connections.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(testbed: &Testbed) -> Result<Self> {
        Self::start_with(testbed, Vec::new())
    }

    /// As [`DiskServer::start`], with images.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_with(testbed: &Testbed, exports: Vec<Export>) -> Result<Self> {
        Self::start_as(testbed, None, exports)
    }

    /// As [`DiskServer::start_with`]; a `program` that takes the same arguments is started instead.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_as(
        testbed: &Testbed,
        program: Option<&Path>,
        exports: Vec<Export>,
    ) -> Result<Self> {
        let position = testbed.disk().clone();
        let address = format!("{}:{PORT}", position.address());
        let state = testbed.logs().join("disk-server-state");
        let process = serve(testbed, &position, program, &state, &exports)?;
        Ok(Self {
            position,
            address,
            state,
            exports,
            operator: testbed.keys().map(|keys| keys.operator(TESTBED)),
            defined: Mutex::default(),
            program: program.map(Path::to_owned),
            process,
        })
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same state.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn restart(&mut self, testbed: &Testbed) -> Result<()> {
        self.kill();
        let program = self.program.as_deref();
        self.process = serve(testbed, &self.position, program, &self.state, &self.exports)?;
        Ok(())
    }

    /// Has another program go on with the same state.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn upgrade(&mut self, testbed: &Testbed, program: &Path) -> Result<()> {
        self.program = Some(program.to_owned());
        self.restart(testbed)
    }

    /// Its machine loses its power. Another one gets a copy of its state, takes its address over, and starts
    /// it. Once in a run.
    ///
    /// # Errors
    ///
    /// When that machine cannot be made, or it does not start there.
    pub fn move_to_another_machine(&mut self, testbed: &Testbed) -> Result<()> {
        self.position = testbed.fabric().replace_disk_server()?;
        self.kill();
        let there = testbed.logs().join("disk-server-state-2");
        output(Command::new("cp").arg("-a").args([&self.state, &there]))?;
        self.state = there;
        self.restart(testbed)
    }

    /// As [`DiskServer::restart`], with other images.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn offer(&mut self, testbed: &Testbed, exports: Vec<Export>) -> Result<()> {
        self.exports = exports;
        self.restart(testbed)
    }

    /// Does something while the server does nothing: what it has written does not change
    /// meanwhile. Its clients wait.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn paused<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::SIGSTOP);
        let result = work();
        self.process.signal(Signal::SIGCONT);
        result
    }

    /// Where an image is, for `--disk`.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        format!("nbd://{}:{NBD_PORT}/{export}", self.host())
    }

    /// The address without a port: NBD is at its usual one.
    #[must_use]
    pub fn host(&self) -> &str {
        let (host, _) = self.address.split_once(':').expect("an address has a port");
        host
    }

    /// Its address, for `--disk-server`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// With which key a host speaks with it, for `ftvm` and `disk-server`.
    #[must_use]
    pub fn key_options(&self) -> &'static [&'static str] {
        keys::on_host(self.operator.is_none())
    }

    /// The same in a daemon's configuration.
    #[must_use]
    pub fn key_configuration(&self) -> String {
        keys::configuration(self.operator.is_none())
    }

    /// Defines a guest that hosts run by hand, if it was not yet: with keys no host may run one that is not. What
    /// it boots does not count then.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or refuses it.
    pub(super) fn define(&self, vm: &str) -> Result<()> {
        let Some(endpoint) = self.operator.clone() else {
            return Ok(());
        };
        let mut defined = self.defined.lock();
        if defined.contains(vm) {
            return Ok(());
        }
        let failed = |trouble: String| Error::Client {
            what: format!("the definition of {vm}"),
            trouble,
        };
        let operation = Operation::Define {
            definition: Box::new(Definition {
                vm: vm.parse().expect("a guest's name"),
                memory_mib: 1,
                kernel: Image {
                    path: "/by/hand".to_owned(),
                    sha256: ImageDigest([0; 32]),
                },
                initrd: None,
                append: String::new(),
                mac: format!("02:00:00:00:00:{:02x}", defined.len()),
                clock: "kvm-clock".to_owned(),
                disk: None,
                export: None,
                heartbeat_timeout_ms: None,
                lag: LagBounds::default(),
                hosts: NamedHosts::default(),
            }),
            by: Text::cut("testbed"),
        };
        let address = self.address.parse().expect("a disk server has one");
        let arbiter = Arbiter::new(address, endpoint, Settings::default());
        let place = self.position.namespace();
        let asked = place.within(|| arbiter.operate(operation));
        asked
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        defined.insert(vm.to_owned());
        Ok(())
    }

    /// Epoch and holder of a guest, as `disk-server status` on a host has them.
    ///
    /// # Errors
    ///
    /// When it does not answer, or does not know the guest.
    pub fn record(&self, host: &Host, vm: &str) -> Result<(u64, String)> {
        let status = ["disk-server", "status", "--server", &self.address];
        let table = host.check(&[&status[..], self.key_options()].concat())?;
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find_map(|words| match words[..] {
                [name, epoch, holder, ..] if name == vm => {
                    Some((epoch.parse().ok()?, holder.to_owned()))
                }
                _ => None,
            })
            .ok_or_else(|| Error::Refused {
                host: host.name().to_owned(),
                reason: format!("the disk server does not know {vm}:\n{table}"),
            })
    }
}

fn serve(
    testbed: &Testbed,
    disk: &Position,
    program: Option<&Path>,
    state: &Path,
    exports: &[Export],
) -> Result<LocalProcess> {
    let address = format!("{}:{PORT}", disk.address());
    let mut arguments = ["--listen", &address, "--state"]
        .map(str::to_owned)
        .to_vec();
    arguments.push(state.to_string_lossy().into_owned());
    let mut ports = vec![PORT];
    if !exports.is_empty() {
        ports.push(NBD_PORT);
        let nbd = format!("{}:{NBD_PORT}", disk.address());
        arguments.extend(["--nbd-listen".to_owned(), nbd]);
    }
    for export in exports {
        arguments.extend(["--export".to_owned(), export.argument()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut process = testbed.start_disk_server(disk, program, &arguments)?;
    wait_until("the disk server", LIMIT, || {
        if let Some(exit) = process.ended() {
            return Err(Error::Command {
                command: format!("disk-server {}", arguments.join(" ")),
                stderr: format!("{exit}; its log is in {}", testbed.logs().display()),
            });
        }
        let answers = |port: &u16| disk.connect(disk.address(), *port, CONNECT).is_ok();
        Ok(ports.iter().all(answers))
    })?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_told_as_the_server_wants_it() {
        let mut export = Export {
            name: "root".to_owned(),
            image: "/tmp/disk.raw".into(),
            guest: None,
        };
        assert_eq!(export.argument(), "root=/tmp/disk.raw");
        export.guest = Some("db".to_owned());
        assert_eq!(export.argument(), "root=/tmp/disk.raw,vm=db");
    }
}
