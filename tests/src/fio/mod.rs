//! The throughput of a guest's disk: fio in the guest, on the same disk server, under QEMU with KVM,
//! under `ftvm` alone, and under `ftvm` replicated in both ways to read. All of it in one go on one
//! host, so that the ratios mean something.

mod report;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use guest_images::{DebianKernel, GuestImages, PackageStore, debian};
use serde::Serialize;

pub use self::report::{Figures, Measurement, Report, Row};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::Layout;
use crate::pair::{DiskServer, Export, Guest, Side};
use crate::process::HostProcess;
use crate::sparse;
use crate::testbed::Testbed;

/// For what will never happen: a boot, or one line after the other.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked for the guest's lines.
const POLL: Duration = Duration::from_millis(20);
const EXPORT: &str = "root";

/// What fio does in the guest, in this order: its name of the access pattern, and the size of the
/// requests.
pub const JOBS: [(&str, &str); 4] = [
    ("randread", "4k"),
    ("randwrite", "4k"),
    ("read", "1M"),
    ("write", "1M"),
];

/// What the guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Configuration {
    /// QEMU with KVM.
    Qemu,
    /// `ftvm run`.
    Alone,
    /// `ftvm primary` and `ftvm backup`; what is read is in the log.
    LoggedReads,
    /// The same; the backup reads the disk itself.
    BackupReads,
}

impl Configuration {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [
        Self::Qemu,
        Self::Alone,
        Self::LoggedReads,
        Self::BackupReads,
    ];
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qemu => "QEMU with KVM",
            Self::Alone => "ftvm alone",
            Self::LoggedReads => "replicated, reads in the log",
            Self::BackupReads => "replicated, reads of the backup",
        })
    }
}

/// Measures `rounds` times, `seconds` a job.
///
/// # Errors
///
/// When something is not set up, a guest does not boot, or fio fails in it.
pub fn measure(
    rounds: u32,
    seconds: u32,
    mut progress: impl FnMut(&Measurement),
) -> Result<Report> {
    let layout = Layout::find();
    let testbed = Testbed::new("fio")?;
    let [a, b] = testbed.start_hosts(["a", "b"])?;
    let mut bench = Bench {
        disk_server: DiskServer::start(&testbed)?,
        image: testbed.logs().join("disk.raw"),
        original: layout.images().join(debian::NAME),
        words: format!(
            "quiet mitigations=off {} ftvm.seconds={seconds}",
            debian::FIO_WORD
        ),
        runs: 0,
        a,
        b,
        testbed,
    };
    bench.install_qemu(&layout)?;
    let mut measurements = Vec::new();
    for round in 1..=rounds {
        for configuration in Configuration::ALL {
            bench.run(configuration, |figures, log_mbit| {
                let measurement = Measurement {
                    round,
                    configuration,
                    figures,
                    log_mbit,
                };
                progress(&measurement);
                measurements.push(measurement);
            })?;
        }
    }
    bench.testbed.succeed();
    Ok(Report::new(measurements))
}

struct Bench {
    disk_server: DiskServer,
    original: PathBuf,
    image: PathBuf,
    words: String,
    runs: u32,
    a: Host,
    b: Host,
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

/// The guest under way.
enum Running {
    Alone(Box<HostProcess>),
    Replicated {
        primary: Box<Side>,
        _backup: Box<Side>,
    },
}

impl Bench {
    /// QEMU, its firmware, and a kernel in the form that it boots.
    fn install_qemu(&self, layout: &Layout) -> Result<()> {
        self.a.install(Path::new("/usr/bin/qemu-system-x86_64"))?;
        for file in [
            "/usr/share/seabios/bios-256k.bin",
            "/usr/share/qemu/linuxboot_dma.bin",
            "/usr/share/qemu/kvmvapic.bin",
        ] {
            self.a.install_file(Path::new(file))?;
        }
        let store = PackageStore::new(layout.packages());
        let kernel = DebianKernel::unpack(&store)
            .and_then(|kernel| kernel.bzimage())
            .map_err(Error::Image)?;
        self.a.provide(&kernel, "bzImage").map(drop)
    }

    /// Boots the guest on a fresh copy of the disk, and gives the figures of each job.
    fn run(
        &mut self,
        configuration: Configuration,
        mut measured: impl FnMut(Figures, Option<f64>),
    ) -> Result<()> {
        self.runs += 1;
        let name = format!("fio-{}", self.runs);
        sparse::copy(&self.original, &self.image)?;
        let replicated = matches!(
            configuration,
            Configuration::LoggedReads | Configuration::BackupReads
        );
        let export = Export {
            name: EXPORT.to_owned(),
            image: self.image.clone(),
            guest: replicated.then(|| name.clone()),
        };
        self.disk_server.offer(&self.testbed, vec![export])?;
        let mut running = self.start(configuration, &name)?;

        let mut began: Option<(Instant, Option<u64>)> = None;
        loop {
            let (line, at, log) = running.next_line()?;
            if let Some(figures) = Figures::parse(&line) {
                let mbit = began.take().and_then(|(since, before)| {
                    let bytes = log?.saturating_sub(before?) as f64;
                    Some(bytes * 8.0 / 1e6 / (at - since).as_secs_f64())
                });
                measured(figures, mbit);
            } else if line.starts_with("fio-begin ") {
                began = Some((at, log));
            } else if line.contains(debian::FIO_DONE) {
                return Ok(());
            } else if line.contains("ftvm-guest: fio failed") {
                return Err(Error::Refused {
                    host: self.a.name().to_owned(),
                    reason: line,
                });
            }
        }
    }

    fn start(&self, configuration: Configuration, name: &str) -> Result<Running> {
        let uri = self.disk_server.uri(EXPORT);
        let mut guest = Guest::debian(name, &uri);
        guest.words.clone_from(&self.words);
        guest.options.push("--console".to_owned());
        let alone = |process| Running::Alone(Box::new(process));
        match configuration {
            Configuration::Qemu => self.start_qemu(&uri).map(alone),
            Configuration::Alone => guest.alone(&self.a).map(alone),
            Configuration::LoggedReads => self.start_pair(&guest, "log"),
            Configuration::BackupReads => self.start_pair(&guest, "disk"),
        }
    }

    fn start_pair(&self, guest: &Guest, reads: &str) -> Result<Running> {
        let options = ["--backup-reads", reads];
        Ok(Running::Replicated {
            primary: Box::new(guest.primary(&self.a, &self.disk_server, &options)?),
            _backup: Box::new(guest.backup(&self.b, &self.a, &self.disk_server)?),
        })
    }

    fn start_qemu(&self, uri: &str) -> Result<HostProcess> {
        let drive = format!("file={uri},format=raw,if=virtio,cache=none,aio=threads");
        let words = format!("console=ttyS0 {}", self.words);
        self.a.spawn(&[
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc,accel=kvm",
            "-cpu",
            "host",
            "-smp",
            "1",
            "-m",
            &debian::MEMORY_MIB.to_string(),
            "-serial",
            "stdio",
            "-drive",
            &drive,
            "-kernel",
            "/tmp/bzImage",
            "-initrd",
            &self.a.image(GuestImages::DISK),
            "-append",
            &words,
        ])
    }
}

impl Running {
    /// The next line on the guest's console, when it came, and how many bytes of log there were by
    /// then.
    fn next_line(&mut self) -> Result<(String, Instant, Option<u64>)> {
        let ended = |seen: String| Error::Timeout {
            what: "the next line of the guest".to_owned(),
            limit: LIMIT,
            seen,
        };
        match self {
            Self::Alone(process) => match process.lines().recv_timeout(LIMIT) {
                Ok(line) => Ok((line.text, line.at, None)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    Err(ended("nothing".to_owned()))
                }
            },
            Self::Replicated { primary, .. } => {
                let deadline = Instant::now() + LIMIT;
                loop {
                    if let Some(line) = primary.next_console_line() {
                        let log = primary.told().stats.map(|stats| stats.log_bytes);
                        return Ok((line.text, line.at, log));
                    }
                    if primary.has_ended() || Instant::now() > deadline {
                        return Err(ended(primary.told().last_words()));
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
    }
}
