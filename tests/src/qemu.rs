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
use crate::machine::{Plan, console_log, tail};
use crate::network::{Network, link_name};
use crate::process::spawn_bound;

/// What identifies a process for good: its number and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    started: u64,
}

impl ProcessId {
    pub(crate) fn of(pid: u32) -> Option<Self> {
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
    pub(crate) fn start(plan: &Plan<'_>, image: &HostImage) -> Result<Self> {
        let (console, errors) = (plan.console(), errors_log(plan.logs, plan.name));
        let stderr = File::create(&errors).map_err(|source| Error::File {
            path: errors.clone(),
            source,
        })?;
        let mut command = command(plan, image, &console);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        plan.fabric.namespace().adopt(&mut command)?;
        let child = if plan.stays {
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
            host: plan.name.to_owned(),
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
        let (console, errors) = (console_log(logs, name), errors_log(logs, name));
        Self {
            id,
            child: None,
            console,
            errors,
        }
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether the init script is through. Before, nobody would answer.
    pub(crate) fn has_booted(&self) -> bool {
        fs::read(&self.console)
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("ftvm-host: "))
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
                while self.id.alive() && Instant::now() < deadline {
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
        format!("{}\n{}", tail(&self.errors), tail(&self.console))
    }
}

/// Where QEMU's own messages go.
fn errors_log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}-qemu.log"))
}

/// QEMU's command line: known to give a KVM that runs Linux guests.
fn command(plan: &Plan<'_>, image: &HostImage, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-name", plan.name])
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
            &plan.memory_mib.to_string(),
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
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .arg("-append")
        // Linux gives its timer ten ticks' time to interrupt it, or panics: an emulated processor
        // that has others beside it may not come to it in time. KVM's guests do not look either.
        .arg(format!(
            "console=ttyS0 quiet mitigations=off no_timer_check panic=-1 ftvm.host={} ftvm.number={}",
            plan.name, plan.number
        ));
    for network in Network::ALL {
        let tap = link_name(plan.name, network);
        let mac = network.host_mac(plan.number);
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
