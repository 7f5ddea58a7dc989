//! A host that is a network namespace of this machine, with the same
//! interfaces, the same agent and the same tools as an emulated one, and with
//! processes and a `/tmp` of its own.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest_images::PackageStore;
use guest_images::error::ImageError;
use nix::sys::signal::{Signal, kill};

use crate::error::{Error, Result};
use crate::layout::{HOST_AGENT, Layout};
use crate::netns::Namespace;
use crate::network::Network;
use crate::plan::{Plan, tail};
use crate::process::LocalProcess;
use crate::qemu::ProcessId;

/// Where a host has busybox's tools.
const TOOLS: &str = "/tmp/.tools";

/// Process 1 of a host: it keeps the agent running, and reaps what that leaves. A checkout in this
/// machine's `/tmp` stays where it is. Of this machine's programs an emulated host has `ip` and `tc`.
const INIT: &str = r#"
    set -e
    mount -t tmpfs tmpfs /mnt
    case "$3" in
    /tmp/*)
        mkdir -p "/mnt/${3#/tmp/}"
        mount --bind "$3" "/mnt/${3#/tmp/}"
        ;;
    esac
    mount --move /mnt /tmp
    mkdir "$0"
    "$1" --install -s "$0"
    rm "$0/ip" "$0/tc"
    "$2" &
    wait
"#;

/// The tools of emulated hosts.
fn busybox(layout: &Layout) -> Result<PathBuf> {
    let store = PackageStore::new(layout.packages());
    let package = store.package("busybox-static").map_err(ImageError::from);
    let file = package.and_then(|package| Ok(package.file("bin/busybox")?));
    file.map_err(Error::Image)
}

/// A namespace with an agent in it.
#[derive(Debug)]
pub(crate) struct NamespaceMachine {
    namespace: Namespace,
    agent: LocalProcess,
    process: ProcessId,
    console: PathBuf,
}

impl NamespaceMachine {
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        let namespace = plan.fabric.host_namespace(plan.name);
        namespace.ip(&interfaces(plan.number))?;

        let console = plan.console();
        let failed = |source| Error::File {
            path: console.clone(),
            source,
        };
        let log = File::create(&console).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let busybox = busybox(plan.layout)?;
        let agent = plan.layout.program(HOST_AGENT)?;
        // `ftvm` is found by its name, as in an emulated host.
        let mut path = plan
            .layout
            .program("ftvm")?
            .parent()
            .unwrap_or(Path::new("."))
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(TOOLS);
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--mount", "--mount-proc", "--kill-child", "--"])
            .arg(&busybox)
            .args(["sh", "-c", INIT, TOOLS])
            .args([busybox.as_os_str(), agent.as_os_str()])
            .arg(plan.layout.root())
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        namespace.adopt(&mut command)?;
        let mut agent = LocalProcess::start(command)?;
        let process = ProcessId::of(agent.child().id()).ok_or_else(|| Error::Died {
            host: plan.name.to_owned(),
            output: tail(&console),
        })?;
        Ok(Self {
            namespace,
            agent,
            process,
            console,
        })
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.process
    }

    pub(crate) fn console(&self) -> &Path {
        &self.console
    }

    /// Sends a signal to everything that runs in the host.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.namespace.processes()? {
            // It may have ended meanwhile.
            let _ = kill(pid, signal);
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process may fork while the others are being killed.
        loop {
            if let Err(error) = self.signal(Signal::SIGKILL) {
                log::warn!("{error}");
                break;
            }
            self.agent.kill();
            if self.namespace.processes().is_ok_and(|left| left.is_empty())
                || Instant::now() > deadline
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Sets the interfaces up as a host's init script does.
fn interfaces(number: u8) -> String {
    let up: String = [Network::Logging, Network::Storage, Network::Management]
        .map(|network| {
            format!(
                "address add {}/24 dev {network}\nlink set {network} up\n",
                network.host_address(number)
            )
        })
        .concat();
    format!(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0\n\
         tuntap add dev tap0 mode tap\n\
         link set client master br0 up\n\
         link set tap0 master br0 up\n\
         link set br0 up\n\
         address add {}/24 dev br0\n\
         {up}",
        Network::Client.host_address(number)
    )
}
