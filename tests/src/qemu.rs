//! A QEMU process that is a host.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::debian_boot::DebianBoot;
use crate::error::{Error, Result};
use crate::network::{Network, link_name};
use crate::plan::{Plan, console_log, errors_log, tail};
use crate::process::spawn_bound;
use crate::qmp::Monitor;

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

/// What a host's kernel is told. Linux gives its timer ten ticks' time to interrupt it, or panics: an emulated
/// processor that has others beside it may not come to it in time. KVM's guests do not look either. Its console has
/// notices: of [system calls](crate::refused_calls) that were refused.
pub(crate) const WORDS: &str = "console=ttyS0 loglevel=6 mitigations=off no_timer_check panic=-1";

/// What QEMU migrates a host's state with; it is started in the snapshot's directory.
const SAVE: &str = "exec:cat > state";
const LOAD: &str = "exec:cat state";

/// What a host's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// The file of a snapshot.
    File,
    /// A copy of that file.
    Copy,
    /// No file's.
    Anonymous,
}

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    id: ProcessId,
    /// Present when we started it in this process.
    child: Option<Child>,
    monitor: Option<Mutex<Monitor>>,
    name: String,
    console: PathBuf,
    errors: PathBuf,
}

impl Qemu {
    const PROCESSOR: &str = "EPYC,+svm,+npt";

    /// What a host has, known to give a KVM that runs Linux guests.
    pub(crate) const HARDWARE: [&str; 8] = [
        "-machine",
        "q35,memory-backend=memory",
        "-accel",
        "tcg,tb-size=512",
        "-cpu",
        Self::PROCESSOR,
        "-nodefaults",
        "-no-user-config",
    ];

    /// Boots a host whose memory is a file in `directory`, up to where it waits for its name.
    pub(crate) fn boot(
        plan: &Plan<'_>,
        directory: &Path,
        kernel: &Path,
        initramfs: &Path,
    ) -> Result<Self> {
        let mut command = command(plan, directory, Memory::File);
        command.args(["-no-reboot", "-append", WORDS]);
        command.arg("-kernel").arg(kernel);
        command.arg("-initrd").arg(initramfs);
        Self::launch(plan, command)
    }

    /// Boots a Debian host, which is itself told when it is to boot again.
    pub(crate) fn boot_from_disk(plan: &Plan<'_>, boot: &DebianBoot) -> Result<Self> {
        let mut command = command(plan, plan.logs, Memory::Anonymous);
        let words = format!("{WORDS} {}", boot.words);
        let disk = format!("if=virtio,format=qcow2,file={}", boot.disk.display());
        command.args(["-append", &words, "-drive", &disk]);
        command.arg("-kernel").arg(&boot.kernel);
        command.arg("-initrd").arg(&boot.initramfs);
        Self::launch(plan, command)
    }

    /// Saves the state of a host that was booted, and ends it.
    pub(crate) fn save(&self) -> Result<()> {
        self.order(|monitor| {
            monitor.migrate("migrate", SAVE)?;
            monitor.execute("quit", &json!({})).map(drop)
        })
    }

    /// Starts a host from what was saved of one of its size in `directory`, and gives it its name.
    pub(crate) fn restore(plan: &Plan<'_>, directory: &Path) -> Result<Self> {
        let mut command = command(plan, directory, Memory::Copy);
        command.args(["-no-reboot", "-incoming", "defer"]);
        let mut qemu = Self::launch(plan, command)?;
        qemu.order(|monitor| {
            monitor.migrate("migrate-incoming", LOAD)?;
            // However it was saved.
            monitor.execute("cont", &json!({})).map(drop)
        })?;
        qemu.tell_name(plan).map_err(|source| Error::Monitor {
            host: plan.name.to_owned(),
            output: qemu.last_words(),
            source,
        })?;
        Ok(qemu)
    }

    /// Tells a restored host who it is: see `init/host.sh`.
    fn tell_name(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        let console = self.child.as_mut().and_then(|child| child.stdin.as_mut());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seed = std::iter::repeat_with(fastrand::alphanumeric).take(32);
        writeln!(
            console.expect("it was started with a pipe"),
            "{} {} {} {}",
            plan.name,
            plan.number,
            now.as_nanos(),
            seed.collect::<String>()
        )
    }

    fn launch(plan: &Plan<'_>, mut command: Command) -> Result<Self> {
        let [console, errors] = plan.own_logs();
        let create = |path: &Path| {
            File::create(path).map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })
        };
        command
            .stdin(Stdio::piped())
            .stdout(create(&console)?)
            .stderr(create(&errors)?);
        plan.fabric.namespace().adopt(&mut command)?;
        let line = format!("{command:?}");
        let failed = |source| Error::Start {
            command: line.clone(),
            source,
        };
        let monitor = Monitor::attach(&mut command).map_err(failed)?;
        let child = if plan.stays {
            command.process_group(0).spawn().map_err(failed)?
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
            monitor: Some(Mutex::new(monitor)),
            name: plan.name.to_owned(),
            console,
            errors,
        })
    }

    /// Does something with the monitor of a QEMU that we started.
    fn order<T>(&self, orders: impl FnOnce(&mut Monitor) -> io::Result<T>) -> Result<T> {
        let monitor = self.monitor.as_ref().expect("we started it");
        orders(&mut monitor.lock()).map_err(|source| Error::Monitor {
            host: self.name.clone(),
            output: self.last_words(),
            source,
        })
    }

    pub(crate) fn attach(id: ProcessId, logs: &Path, name: &str) -> Self {
        let (console, errors) = (console_log(logs, name), errors_log(logs, name));
        Self {
            id,
            child: None,
            monitor: None,
            name: name.to_owned(),
            console,
            errors,
        }
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it has booted as far as all hosts are the same.
    pub(crate) fn waits_for_its_name(&self) -> bool {
        self.has_said("ftvm-host: waits")
    }

    /// Whether the init script is through. Before, nobody would answer.
    pub(crate) fn has_booted(&self) -> bool {
        self.has_said("is up")
    }

    fn has_said(&self, text: &str) -> bool {
        fs::read(&self.console).is_ok_and(|seen| String::from_utf8_lossy(&seen).contains(text))
    }

    /// The error that it has ended.
    pub(crate) fn died(&self, name: &str) -> Error {
        Error::Died {
            host: name.to_owned(),
            output: self.last_words(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.id.signal(signal);
    }

    /// Stops its processors, and the clocks that its machine has.
    pub(crate) fn stop(&self) -> Result<()> {
        self.order(|monitor| monitor.execute("stop", &json!({})).map(drop))
    }

    /// Lets it go on after [`Qemu::stop`].
    pub(crate) fn cont(&self) -> Result<()> {
        self.order(|monitor| monitor.execute("cont", &json!({})).map(drop))
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

fn command(plan: &Plan<'_>, directory: &Path, memory: Memory) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let size = plan.size.memory_mib;
    let backend = match memory {
        Memory::File => "memory-backend-file,mem-path=memory,share=on",
        Memory::Copy => "memory-backend-file,mem-path=memory,share=off",
        Memory::Anonymous => "memory-backend-ram",
    };
    command
        .current_dir(directory)
        .args(["-name", plan.name])
        .args(Qemu::HARDWARE)
        // QEMU takes the last one. A restored host's kernel remembers the one that it booted with, and
        // must not use what this one lacks.
        .args(
            plan.processor.iter().flat_map(|features| {
                ["-cpu".to_owned(), format!("{},{features}", Qemu::PROCESSOR)]
            }),
        )
        .args(["-smp", &plan.size.processors.to_string()])
        .args(["-m", &size.to_string()])
        .arg("-object")
        .arg(format!("{backend},id=memory,size={size}M"))
        .args(["-display", "none"])
        .args(["-chardev", "stdio,id=console,signal=off"])
        .args(["-serial", "chardev:console"]);
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
