//! The hosts, and a guest on them under each configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest_images::{DebianKernel, GuestImages, PackageStore, agent, debian, load};
use testbed::pair::{DiskServer, Export, Guest, Side};
use testbed::{
    Error, Host, HostKind, HostProcess, Layout, Network, Position, Result, Signal, Testbed, sparse,
    wait_until,
};

use crate::colo::{self, Colo};
use crate::condition::Condition;
use crate::configuration::Configuration;
use crate::drive::FIO_SEED;
use crate::host_meter::{self, HostMeter, Reading};
use crate::sample::{HostFigures, VmmFigures};
use crate::schedule::Visit;
use crate::window;
use crate::workload::GuestKind;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(60);
/// The disk's name at the disk server.
const EXPORT: &str = "root";
/// What a VMM needs beside the guest's memory, in MiB, and its host beside the VMM.
const VMM_MIB: u32 = 150;
/// A host is taken for lost after this silence. Longer than the default: nothing is to fail over
/// because of the machine's other work, and what is measured does not depend on it.
const HEARTBEAT_MS: &str = "2000";
/// What emulated hosts have of memory: at least what all scenarios run with, at most what a guest of
/// 2 GiB takes with its copy and the log of it.
const LEAST_HOST_MIB: u64 = 1024;
const MOST_HOST_MIB: u64 = 5120;
/// A guest under QEMU COLO sends nothing of its own accord: two that do so at other moments differ.
const COLO_WORDS: &str = "ipv6.disable=1";
/// Where a recording goes in a host.
const RECORDING: &str = "/tmp/bench.log";
/// The Ethernet address that `ftvm` gives a guest: under QEMU it has the same one, so that clients
/// need not learn another.
const MAC: &str = "52:54:00:f7:00:01";
/// What computes all the time.
const BUSY: [&str; 3] = ["sh", "-c", "while :; do :; done"];
/// QEMU, and what it reads to boot a kernel.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const FIRMWARE: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];

/// Two hosts, the disk server, and what QEMU needs.
#[derive(Debug)]
pub(crate) struct Stage {
    a: Host,
    b: Host,
    disk_server: DiskServer,
    /// The image that guests get a copy of.
    original: PathBuf,
    /// The copy.
    disk: PathBuf,
    /// The compressed kernel, as host `a` has it.
    kernel: String,
    guests: u32,
    // Dropped last: the networks of all that.
    testbed: Testbed,
}

/// A guest under way. It is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    vmm: Vmm,
    /// How the command lines of the VMMs begin: of the one that runs the guest, and of its backup.
    commands: [Option<String>; 2],
    /// What computes on the other host meanwhile.
    neighbour: Option<HostProcess>,
    lines: Vec<(Instant, window::Stats)>,
}

#[derive(Debug)]
enum Vmm {
    Qemu(Box<HostProcess>),
    Colo(Box<Colo>),
    Ftvm {
        primary: Box<Side>,
        backup: Option<Box<Side>>,
    },
}

/// What each of the two hosts gets, by this machine's `/proc/meminfo`: a third of what there is, so
/// that the machine is not short of it, and no more than the largest guest can use.
fn host_memory_mib(meminfo: &str) -> u32 {
    let third = host_meter::available_mib(meminfo) / 3;
    third.clamp(LEAST_HOST_MIB, MOST_HOST_MIB) as u32
}

/// What a reader of the figures has to know of how guests are run, by its name.
pub(crate) fn settings() -> BTreeMap<String, String> {
    let kills = testbed::failover::Options::default();
    let words = |guest: Guest| format!("{} {}", guest.words, agent::WORD);
    [
        ("guest's kernel parameters", words(Guest::tools(""))),
        (
            "those of the guest with a disk",
            words(Guest::debian("", "")),
        ),
        ("those of QEMU COLO's guest, beside", COLO_WORDS.to_owned()),
        ("heartbeat timeout, ms", HEARTBEAT_MS.to_owned()),
        (
            "that of the kills, ms",
            kills.heartbeat_timeout.as_millis().to_string(),
        ),
        ("seed of the kills' moments", kills.seed.to_string()),
        ("seed of fio", FIO_SEED.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

impl Stage {
    /// Starts hosts and disk server, and installs QEMU if it is to be measured.
    pub(crate) fn new(configurations: &[Configuration]) -> Result<Self> {
        let layout = Layout::find();
        let memory = host_memory_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
        let testbed = Testbed::new("bench")?.with_host_memory(memory);
        let [a, b] = testbed.start_hosts(["a", "b"])?;
        for host in [&a, &b] {
            host_meter::prepare(host)?;
        }
        let mut stage = Self {
            disk_server: DiskServer::start(&testbed)?,
            original: layout.images().join(debian::NAME),
            disk: testbed.logs().join("disk.raw"),
            kernel: String::new(),
            guests: 0,
            a,
            b,
            testbed,
        };
        if configurations.iter().any(|one| !one.is_ftvm()) {
            stage.install_qemu(&layout, configurations.contains(&Configuration::Colo))?;
        }
        Ok(stage)
    }

    /// QEMU, its firmware, and a kernel in the form that it boots.
    fn install_qemu(&mut self, layout: &Layout, colo: bool) -> Result<()> {
        let store = PackageStore::new(layout.packages());
        let kernel = DebianKernel::unpack(&store)
            .and_then(|kernel| kernel.bzimage())
            .map_err(Error::Image)?;
        let hosts = if colo {
            vec![&self.a, &self.b]
        } else {
            vec![&self.a]
        };
        for host in hosts {
            host.install(Path::new(QEMU))?;
            for file in FIRMWARE {
                host.install_file(Path::new(file))?;
            }
            // The same path in both.
            self.kernel = host.provide(&kernel, "bzImage")?;
        }
        Ok(())
    }

    /// Where clients are.
    pub(crate) fn client(&self) -> &Position {
        self.testbed.client()
    }

    /// Where the run's files are.
    pub(crate) fn logs(&self) -> &Path {
        self.testbed.logs()
    }

    /// The host that runs the guest.
    pub(crate) fn primary(&self) -> &Host {
        &self.a
    }

    /// Ends a run that went well.
    pub(crate) fn succeed(self) {
        self.testbed.succeed();
    }

    /// Begins to boot a guest; the one before must have ended.
    pub(crate) fn start(&mut self, visit: &Visit) -> Result<Running> {
        let (configuration, kind) = (visit.configuration, visit.guest);
        // What a start that failed has left holds the network interface.
        for host in [&self.a, &self.b] {
            wait_until("the end of the last guest", LIMIT, || {
                Ok(host.kind() == HostKind::Namespace
                    || !host
                        .run(&["pidof", "ftvm", "qemu-system-x86_64"])?
                        .exit
                        .success())
            })?;
        }
        self.guests += 1;
        let name = format!("bench-{}", self.guests);
        let mut guest = self.guest(configuration, kind, &name)?;
        guest.words = format!("{} {}", guest.words, agent::WORD);
        let memory = visit.memory_mib.unwrap_or(usual_memory(kind));
        guest.set_memory(memory);
        let qemu = format!("qemu-system-x86_64 -name {name}");
        let (vmm, commands) = match configuration {
            Configuration::Qemu => {
                let argv = self.qemu(&guest, kind, memory, &name);
                let argv = argv.iter().map(String::as_str);
                let process = self
                    .a
                    .spawn(&argv.chain(["-serial", "stdio"]).collect::<Vec<_>>())?;
                (Vmm::Qemu(Box::new(process)), [Some(qemu), None])
            }
            Configuration::Colo => {
                guest.words.push_str(&format!(" {COLO_WORDS}"));
                let argv = self.qemu(&guest, kind, memory, &name);
                let colo = Colo::start(&argv, [&self.a, &self.b])?;
                (Vmm::Colo(Box::new(colo)), [Some(qemu.clone()), Some(qemu)])
            }
            Configuration::Alone | Configuration::Beside => alone(guest.alone(&self.a)?, "run"),
            Configuration::Record => alone(guest.recording(&self.a, RECORDING)?, "record"),
            Configuration::LoggedReads => self.pair(&guest, "log")?,
            Configuration::DiskReads => self.pair(&guest, "disk")?,
        };
        let neighbour = match configuration {
            Configuration::Beside => Some(self.b.spawn(&BUSY)?),
            _ => None,
        };
        Ok(Running {
            vmm,
            commands,
            neighbour,
            lines: Vec::new(),
        })
    }

    fn guest(
        &mut self,
        configuration: Configuration,
        kind: GuestKind,
        name: &str,
    ) -> Result<Guest> {
        match kind {
            GuestKind::Memory => Ok(Guest::tools(name)),
            GuestKind::Disk => {
                sparse::copy(&self.original, &self.disk)?;
                let replicated = matches!(
                    configuration,
                    Configuration::LoggedReads | Configuration::DiskReads
                );
                let export = Export {
                    name: EXPORT.to_owned(),
                    image: self.disk.clone(),
                    guest: replicated.then(|| name.to_owned()),
                };
                self.disk_server.offer(&self.testbed, vec![export])?;
                Ok(Guest::debian(name, &self.disk_server.uri(EXPORT)))
            }
        }
    }

    fn pair(&self, guest: &Guest, reads: &str) -> Result<(Vmm, [Option<String>; 2])> {
        let options = ["--backup-reads", reads, "--heartbeat-timeout", HEARTBEAT_MS];
        let mut primary = guest.primary(&self.a, &self.disk_server, &options)?;
        primary.keep_figures();
        let backup = guest.backup(&self.b, &self.a, &self.disk_server)?;
        let vmm = Vmm::Ftvm {
            primary: Box::new(primary),
            backup: Some(Box::new(backup)),
        };
        let commands = ["primary", "backup"].map(|role| Some(format!("ftvm {role}")));
        Ok((vmm, commands))
    }

    /// QEMU's options for the guest: the same kernel, initramfs, words, memory and disk as under
    /// `ftvm`, and those of QEMU's own devices that do the same.
    fn qemu(&self, guest: &Guest, kind: GuestKind, memory: u32, name: &str) -> Vec<String> {
        let initrd = match kind {
            GuestKind::Memory => GuestImages::LOAD,
            GuestKind::Disk => GuestImages::DISK,
        };
        let (initrd, memory) = (self.a.image(initrd), memory.to_string());
        let words = format!("console=ttyS0 {}", guest.words);
        let card = format!("virtio-net-pci,netdev=client,mac={MAC},romfile=");
        let drive = format!(
            "file={},format=raw,if=virtio,cache=none,aio=threads",
            self.disk_server.uri(EXPORT)
        );
        #[rustfmt::skip]
        let mut argv = vec![
            "qemu-system-x86_64", "-name", name,
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "pc,accel=kvm", "-cpu", "host", "-smp", "1", "-m", &memory,
            "-netdev", "tap,id=client,ifname=tap0,script=no,downscript=no,vhost=off",
            "-device", &card,
            "-kernel", &self.kernel, "-initrd", &initrd, "-append", &words,
        ];
        if kind == GuestKind::Disk {
            argv.extend(["-drive", &drive]);
        }
        argv.into_iter().map(str::to_owned).collect()
    }

    /// Why a guest cannot be measured with its memory on these hosts, if so: the images are unpacked
    /// in it, and where it is recorded or replicated, the host has it twice.
    pub(crate) fn gap(&self, visit: &Visit) -> Result<Option<String>> {
        let Some(memory) = visit.memory_mib else {
            return Ok(None);
        };
        let least = usual_memory(visit.guest);
        if memory < least {
            return Ok(Some(format!("the guest's image takes {least} MiB")));
        }
        let twice = !matches!(
            visit.configuration,
            Configuration::Qemu | Configuration::Alone
        );
        let needed = memory * if twice { 2 } else { 1 } + VMM_MIB;
        let text = self.a.check(&["cat", "/proc/meminfo"])?;
        let available = host_meter::available_mib(&text);
        Ok((available < u64::from(needed))
            .then(|| format!("{needed} MiB are needed, and the host has {available} left")))
    }

    /// Makes the network between the hosts as the condition says.
    pub(crate) fn disturb(&self, condition: &Condition) -> Result<()> {
        for host in [&self.a, &self.b] {
            if condition.delay_ms > 0.0 {
                // Half of it each way.
                let way = Duration::from_secs_f64(condition.delay_ms / 2e3);
                host.delay(Network::Logging, way)?;
            } else if condition.loss_percent > 0.0 {
                host.lose(Network::Logging, condition.loss_percent / 100.0)?;
            }
        }
        Ok(())
    }

    /// Ends what [`Stage::disturb`] did.
    pub(crate) fn calm(&self, condition: &Condition) -> Result<()> {
        if condition.delay_ms > 0.0 || condition.loss_percent > 0.0 {
            for host in [&self.a, &self.b] {
                host.undisturb(Network::Logging)?;
            }
        }
        Ok(())
    }

    /// Kills a guest, on both hosts, and waits until nothing of it is left: the next one needs its
    /// network interface.
    pub(crate) fn end(&self, running: Running) -> Result<()> {
        running.neighbour.map(kill).transpose()?;
        match running.vmm {
            Vmm::Qemu(process) => kill(*process),
            Vmm::Colo(colo) => {
                // The secondary first: it is not to go on.
                let [primary, secondary] = colo.into_processes();
                kill(secondary)?;
                kill(primary)?;
                colo::restore(&self.b)
            }
            Vmm::Ftvm { primary, backup } => {
                // The backup first: it is not to go live.
                for side in backup.into_iter().chain([primary]) {
                    side.signal(Signal::SIGKILL)?;
                    side.end(LIMIT)?;
                }
                // It takes the host's memory.
                self.a.check(&["rm", "-f", RECORDING]).map(drop)
            }
        }
    }

    /// An error if the guest cannot be measured any more.
    pub(crate) fn refuse_trouble(&self, running: &mut Running) -> Result<()> {
        running.trouble().map_or(Ok(()), |reason| {
            Err(Error::Refused {
                host: self.a.name().to_owned(),
                reason,
            })
        })
    }

    /// What reads the counters of the hosts that have a VMM.
    pub(crate) fn meters(&self, running: &Running) -> Result<[Option<HostMeter<'_>>; 2]> {
        let [primary, backup] = &running.commands;
        let meter = |host, command: &Option<String>| {
            let command = command.as_ref();
            command
                .map(|command| HostMeter::new(host, command))
                .transpose()
        };
        Ok([meter(&self.a, primary)?, meter(&self.b, backup)?])
    }

    /// Reads the counters of both hosts.
    pub(crate) fn read(meters: &[Option<HostMeter<'_>>; 2]) -> Result<[Option<Reading>; 2]> {
        let read = |meter: &Option<HostMeter<'_>>| meter.as_ref().map(HostMeter::read).transpose();
        Ok([read(&meters[0])?, read(&meters[1])?])
    }

    /// What the hosts tell of the time between two readings.
    pub(crate) fn figures(
        before: &[Option<Reading>; 2],
        after: &[Option<Reading>; 2],
    ) -> [Option<HostFigures>; 2] {
        [0, 1].map(|side| Some(after[side].as_ref()?.since(before[side].as_ref()?)))
    }
}

/// The memory of a guest in MiB, where nothing else is asked for.
fn usual_memory(kind: GuestKind) -> u32 {
    match kind {
        GuestKind::Memory => load::MEMORY_MIB,
        GuestKind::Disk => debian::MEMORY_MIB,
    }
}

fn kill(process: HostProcess) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    process.wait(LIMIT).map(drop)
}

fn alone(mut side: Side, role: &str) -> (Vmm, [Option<String>; 2]) {
    side.keep_figures();
    let vmm = Vmm::Ftvm {
        primary: Box::new(side),
        backup: None,
    };
    (vmm, [Some(format!("ftvm {role}")), None])
}

impl Running {
    /// Why the guest cannot be measured any more, if so.
    pub(crate) fn trouble(&mut self) -> Option<String> {
        match &mut self.vmm {
            Vmm::Qemu(process) => process
                .last_word(Duration::ZERO)
                .map(|exit| format!("QEMU ended: {exit}")),
            Vmm::Colo(colo) => colo.trouble(),
            Vmm::Ftvm { primary, backup } => {
                let troubles = [primary.trouble(), backup.as_mut().and_then(|b| b.trouble())];
                let alone = primary.told().event("peer-lost").map(|lost| {
                    format!("the guest is not replicated any more: {}", lost["reason"])
                });
                troubles.into_iter().flatten().next().or(alone)
            }
        }
    }

    /// What `ftvm` told of the time between two moments.
    pub(crate) fn figures(&mut self, from: Instant, to: Instant) -> Option<VmmFigures> {
        let Vmm::Ftvm { primary, .. } = &mut self.vmm else {
            return None;
        };
        let news = primary.take_figures().into_iter();
        self.lines.extend(news.filter_map(|(at, event)| {
            let stats = serde_json::from_value(event).ok()?;
            Some((at, stats))
        }));
        let figures = window::figures(&self.lines, from, to);
        // Those before the window are not asked for again, but for the last one.
        let old = self.lines.iter().rposition(|(at, _)| *at <= from);
        self.lines.drain(..old.unwrap_or(0));
        figures
    }
}
