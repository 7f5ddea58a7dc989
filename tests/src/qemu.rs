//! A QEMU process that is a host.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::HostImage;
use crate::netns::Namespace;
use crate::network::{Network, tap_name};
use crate::process::spawn_bound;

/// What identifies a process for good: its number and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    started: u64,
}

impl ProcessId {
    fn of(pid: u32) -> Option<Self> {
        let pid = pid.cast_signed();
        let (_, started) = stat(pid)?;
        Some(Self { pid, started })
    }

    /// Whether it runs still (a zombie does not).
    pub(crate) fn alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.alive() {
            // It may end at this very moment.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// What a host is started with.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) name: &'a str,
    pub(crate) number: u8,
    pub(crate) image: &'a HostImage,
    pub(crate) fabric: &'a Namespace,
    /// Where its console and QEMU's own messages go.
    pub(crate) logs: &'a Path,
    /// Whether it outlives us.
    pub(crate) stays: bool,
}

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    id: ProcessId,
    /// Present when we started it in this process.
    child: Option<Child>,
    console: PathBuf,
    errors: PathBuf,
}

impl Qemu {
    pub(crate) fn start(machine: &Machine<'_>) -> Result<Self> {
        let log = |what: &str| machine.logs.join(format!("{}-{what}.log", machine.name));
        let (console, errors) = (log("console"), log("qemu"));
        let stderr = File::create(&errors).map_err(|source| Error::File {
            path: errors.clone(),
            source,
        })?;
        let mut command = command(machine, &console);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        machine.fabric.adopt(&mut command)?;
        let child = if machine.stays {
            let line = format!("{command:?}");
            command
                .process_group(0)
                .spawn()
                .map_err(|source| Error::Start {
                    command: line,
                    source,
                })?
        } else {
            spawn_bound(command)?
        };
        let id = ProcessId::of(child.id()).ok_or_else(|| Error::Died {
            host: machine.name.to_owned(),
            output: "it ended at once".to_owned(),
        })?;
        Ok(Self {
            id,
            child: Some(child),
            console,
            errors,
        })
    }

    pub(crate) fn attach(id: ProcessId, logs: &Path, name: &str) -> Self {
        let log = |what: &str| logs.join(format!("{name}-{what}.log"));
        Self {
            id,
            child: None,
            console: log("console"),
            errors: log("qemu"),
        }
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    pub(crate) fn alive(&self) -> bool {
        self.id.alive()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.id.signal(signal);
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.id.signal(Signal::SIGKILL);
        match &mut self.child {
            Some(child) => {
                // A child that was killed can be waited for.
                let _ = child.wait();
            }
            None => {
                let deadline = Instant::now() + Duration::from_secs(10);
                while self.alive() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// The serial console so far.
    pub(crate) fn console(&self) -> &Path {
        &self.console
    }

    /// The end of what was printed, for error messages.
    pub(crate) fn last_words(&self) -> String {
        let tail = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        format!("{}\n{}", tail(&self.errors), tail(&self.console))
    }
}

/// QEMU's command line: known to give a KVM that runs Linux guests.
fn command(machine: &Machine<'_>, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-name", machine.name])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,tb-size=512",
            "-cpu",
            "EPYC,+svm,+npt",
        ])
        .args([
            "-m",
            "1024",
            "-smp",
            "1",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            &format!("file:{}", console.display()),
        ])
        .arg("-kernel")
        .arg(&machine.image.kernel)
        .arg("-initrd")
        .arg(&machine.image.initrd)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet mitigations=off panic=-1 ftvm.host={} ftvm.number={}",
            machine.name, machine.number
        ));
    for network in Network::ALL {
        let tap = tap_name(machine.name, network);
        let mac = network.host_mac(machine.number);
        command
            .args([
                "-netdev",
                &format!("tap,id={network},ifname={tap},script=no,downscript=no"),
            ])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev={network},mac={mac},romfile="),
            ]);
    }
    command
}
