//! The hosts, and a guest on them under each configuration.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest_images::{DebianKernel, PackageStore, agent, debian, load};
use testbed::pair::{DiskServer, Export, Guest, Side};
use testbed::{
    Error, Host, HostKind, HostProcess, Layout, Network, Paging, Result, Signal, Testbed, sparse,
    wait_until,
};

use crate::colo::{self, Colo};
use crate::configuration::{Configuration, HEARTBEAT_MS};
use crate::figures::Figures;
use crate::host_meter::{self, HostMeter, Reading};
use crate::sample::{Axis, Subject};
use crate::transfer::{Joining, Migration, Transfer};
use crate::window;
use crate::workload::GuestKind;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(60);
/// The disk's name at the disk server.
const EXPORT: &str = "root";
/// What emulated hosts have of memory, of which they take what they use: a guest, its copy, and the
/// longest recording.
const HOST_MIB: u32 = 4096;
/// A guest under QEMU COLO sends nothing of its own accord: two that do so at other moments differ.
pub(crate) const COLO_WORDS: &str = "ipv6.disable=1";
/// Where a recording goes in a host.
const RECORDING: &str = "/tmp/bench.log";
/// The Ethernet address that `ftvm` gives a guest: under QEMU it has the same one, so that clients
/// need not learn another.
const MAC: &str = "52:54:00:f7:00:01";
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
    /// Runs the guest.
    pub(crate) a: Host,
    b: Host,
    disk_server: DiskServer,
    /// The image that guests get a copy of.
    original: PathBuf,
    /// The copy.
    disk: PathBuf,
    /// The compressed kernel, as host `a` has it.
    kernel: String,
    guests: u32,
    /// What both hosts have now.
    paging: Paging,
    // Dropped last: the networks of all that.
    pub(crate) testbed: Testbed,
}

/// A guest under way. It is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    vmm: Vmm,
    /// How the command lines of the VMMs begin: of the one that runs the guest, and of its backup if
    /// there is one.
    commands: Vec<String>,
    lines: Vec<(Instant, window::Counters)>,
    /// How long it took until its services answered.
    pub(crate) boot: Duration,
}

#[derive(Debug)]
enum Vmm {
    Qemu(Box<HostProcess>),
    Colo(Box<Colo>),
    /// The one that runs the guest, and its backup if there is one.
    Ftvm(Vec<Side>),
    Joining(Box<Joining>),
    Migration(Box<Migration>),
}

impl Stage {
    /// Starts hosts and disk server, and installs QEMU if it is to be measured.
    pub(crate) fn new(configurations: &[Configuration]) -> Result<Self> {
        let layout = Layout::find();
        let testbed = Testbed::new("bench")?.plain().with_host_memory(HOST_MIB);
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
            paging: Paging::default(),
            a,
            b,
            testbed,
        };
        let is_qemu = |one: &Configuration| {
            use Configuration::{Colo, Migration, Qemu};
            matches!(one, Qemu | Colo | Migration)
        };
        if configurations.iter().any(is_qemu) {
            stage.install_qemu(&layout)?;
        }
        Ok(stage)
    }

    /// QEMU, its firmware, and a kernel in the form that it boots.
    fn install_qemu(&mut self, layout: &Layout) -> Result<()> {
        let store = PackageStore::new(layout.packages());
        let kernel = DebianKernel::unpack(&store)
            .and_then(|kernel| kernel.bzimage())
            .map_err(Error::Image)?;
        for host in [&self.a, &self.b] {
            host.install(Path::new(QEMU))?;
            for file in FIRMWARE {
                host.install_file(Path::new(file))?;
            }
            // The same path in both.
            self.kernel = host.provide(&kernel, "bzImage")?;
        }
        Ok(())
    }

    /// Begins to boot a guest; the one before must have ended.
    pub(crate) fn start(&mut self, subject: &Subject) -> Result<Running> {
        let (configuration, kind) = (subject.configuration, subject.workload.guest());
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
        self.set_paging(configuration)?;
        self.guests += 1;
        let name = format!("bench-{}", self.guests);
        let mut guest = self.guest(configuration, kind, &name)?;
        guest.words = format!("{} {}", guest.words, agent::WORD);
        let usual = match kind {
            GuestKind::Memory => load::MEMORY_MIB,
            GuestKind::Disk => debian::MEMORY_MIB,
        };
        let memory = subject.memory_mib().unwrap_or(usual);
        guest.set_memory(memory);
        let qemu_argv = |stage: &Self, guest: &Guest| stage.qemu(guest, kind, &name, memory);
        let qemu = format!("qemu-system-x86_64 -name {name}");
        let ftvm = |role: &str| vec![format!("ftvm {role}")];
        let (vmm, commands) = match configuration {
            Configuration::Qemu => {
                let argv = [qemu_argv(self, &guest), vec!["-serial".to_owned()]].concat();
                let argv = argv.iter().map(String::as_str).chain(["stdio"]);
                let process = self.a.spawn(&argv.collect::<Vec<_>>())?;
                (Vmm::Qemu(Box::new(process)), vec![qemu])
            }
            Configuration::Colo => {
                guest.words.push_str(&format!(" {COLO_WORDS}"));
                let argv = qemu_argv(self, &guest);
                let colo = Colo::start(&argv, [&self.a, &self.b])?;
                (Vmm::Colo(Box::new(colo)), vec![qemu.clone(), qemu])
            }
            Configuration::Alone | Configuration::AloneNested => {
                (Vmm::Ftvm(vec![guest.alone(&self.a)?]), ftvm("run"))
            }
            Configuration::Record => {
                let side = guest.recording(&self.a, RECORDING)?;
                (Vmm::Ftvm(vec![side]), ftvm("record"))
            }
            Configuration::LoggedReads
            | Configuration::DiskReads
            | Configuration::LoggedReadsNested => {
                let reads = match configuration {
                    Configuration::DiskReads => "disk",
                    _ => "log",
                };
                let allow = self.paging.options();
                let options = ["--backup-reads", reads, "--heartbeat-timeout", HEARTBEAT_MS];
                let options = [&options, allow].concat();
                let primary = guest.primary(&self.a, &self.disk_server, &options)?;
                let backup = guest.backup_with(&self.b, &self.a, &self.disk_server, allow)?;
                let commands = [ftvm("primary"), ftvm("backup")].concat();
                (Vmm::Ftvm(vec![primary, backup]), commands)
            }
            Configuration::Joining => {
                let joining = Joining::start(guest, &self.a, &self.disk_server)?;
                (Vmm::Joining(Box::new(joining)), ftvm("primary"))
            }
            Configuration::Migration => {
                let migration = Migration::start(qemu_argv(self, &guest), &self.a)?;
                (Vmm::Migration(Box::new(migration)), vec![qemu])
            }
        };
        let mut running = Running {
            vmm,
            commands,
            lines: Vec::new(),
            boot: Duration::ZERO,
        };
        if let Vmm::Ftvm(sides) = &mut running.vmm {
            sides[0].keep_figures();
        }
        Ok(running)
    }

    /// Gives the hosts the paging of a configuration. Namespaces have this machine's, and what is not
    /// measured under both is measured under that.
    fn set_paging(&mut self, configuration: Configuration) -> Result<()> {
        let paging = configuration.paging();
        let is_given = self.a.kind() == HostKind::Namespace && !configuration.compares_paging();
        if paging != self.paging && !is_given {
            for host in [&self.a, &self.b] {
                host.set_paging(paging)?;
            }
            self.paging = paging;
        }
        Ok(())
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
                let export = Export {
                    name: EXPORT.to_owned(),
                    image: self.disk.clone(),
                    guest: configuration.has_two_hosts().then(|| name.to_owned()),
                };
                self.disk_server.offer(&self.testbed, vec![export])?;
                Ok(Guest::debian(name, &self.disk_server.uri(EXPORT)))
            }
        }
    }

    /// QEMU's options for the guest: the same kernel, initramfs, words, memory and disk as under
    /// `ftvm`, and those of QEMU's own devices that do the same.
    fn qemu(&self, guest: &Guest, kind: GuestKind, name: &str, memory: u32) -> Vec<String> {
        let (initrd, memory) = (self.a.image(&guest.initrd), memory.to_string());
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

    /// Makes the network between the hosts as a measurement along an axis asks for it.
    pub(crate) fn disturb(&self, growth: Option<(Axis, f64)>) -> Result<()> {
        for host in [&self.a, &self.b] {
            match growth {
                // Half of it each way.
                Some((Axis::Delay, millis)) => {
                    host.delay(Network::Logging, Duration::from_secs_f64(millis / 2e3))?;
                }
                Some((Axis::Loss, percent)) => host.lose(Network::Logging, percent / 100.0)?,
                Some((Axis::Clients | Axis::Memory, _)) | None => {}
            }
        }
        Ok(())
    }

    /// Ends what [`Stage::disturb`] did.
    pub(crate) fn calm(&self, growth: Option<(Axis, f64)>) -> Result<()> {
        if matches!(growth, Some((Axis::Delay | Axis::Loss, _))) {
            for host in [&self.a, &self.b] {
                host.undisturb(Network::Logging)?;
            }
        }
        Ok(())
    }

    /// Has the guest's whole state get to the other host.
    pub(crate) fn transfer(&self, running: &mut Running) -> Result<Transfer> {
        let hosts = [&self.a, &self.b];
        match &mut running.vmm {
            Vmm::Joining(joining) => joining.join(hosts, &self.disk_server),
            Vmm::Migration(migration) => migration.migrate(hosts),
            _ => unreachable!("no other configuration transfers it"),
        }
    }

    /// Kills a guest, on both hosts, and waits until nothing of it is left: the next one needs its
    /// network interface.
    pub(crate) fn end(&self, running: Running) -> Result<()> {
        match running.vmm {
            Vmm::Qemu(process) => kill(*process),
            Vmm::Colo(colo) => {
                // The secondary first: it is not to go on.
                let [primary, secondary] = colo.into_processes();
                kill(secondary)?;
                kill(primary)?;
                colo::restore(&self.b)
            }
            Vmm::Migration(migration) => kill(migration.process),
            Vmm::Joining(joining) => {
                joining.primary.signal(Signal::SIGKILL)?;
                joining.primary.end(LIMIT).map(drop)
            }
            Vmm::Ftvm(sides) => {
                // The backup first: it is not to go live.
                for side in sides.into_iter().rev() {
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

    /// What reads the counters of the hosts that have a VMM, the guest's first.
    pub(crate) fn meters(&self, running: &Running) -> Result<Vec<HostMeter<'_>>> {
        let hosts = [&self.a, &self.b].into_iter().zip(&running.commands);
        hosts
            .map(|(host, command)| HostMeter::new(host, command))
            .collect()
    }

    /// Reads the counters of all these hosts.
    pub(crate) fn read(meters: &[HostMeter<'_>]) -> Result<Vec<Reading>> {
        meters.iter().map(HostMeter::read).collect()
    }
}

/// Why a QEMU cannot be measured any more, if so.
fn ended(process: &mut HostProcess) -> Option<String> {
    let exit = process.last_word(Duration::ZERO)?;
    Some(format!("QEMU ended: {exit}"))
}

fn kill(process: HostProcess) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    process.wait(LIMIT).map(drop)
}

impl Running {
    /// Why the guest cannot be measured any more, if so.
    pub(crate) fn trouble(&mut self) -> Option<String> {
        match &mut self.vmm {
            Vmm::Qemu(process) => ended(process),
            Vmm::Migration(migration) => ended(&mut migration.process),
            Vmm::Joining(joining) => joining.primary.trouble(),
            Vmm::Colo(colo) => colo.trouble(),
            Vmm::Ftvm(sides) => sides.iter_mut().find_map(Side::trouble).or_else(|| {
                let lost = sides[0].told().event("peer-lost")?;
                Some(format!(
                    "the guest is not replicated any more: {}",
                    lost["reason"]
                ))
            }),
        }
    }

    /// What `ftvm` told of the time between two moments; nothing if it is another VMM.
    pub(crate) fn figures(&mut self, from: Instant, to: Instant) -> Figures {
        let Vmm::Ftvm(sides) = &mut self.vmm else {
            return Figures::new();
        };
        let news = sides[0].take_figures().into_iter();
        let news = news.filter_map(|(at, event)| Some((at, serde_json::from_value(event).ok()?)));
        self.lines.extend(news);
        let figures = window::figures(&self.lines, from, to);
        // Those before the window are not asked for again, but for the last one.
        let old = self.lines.iter().rposition(|(at, _)| *at <= from);
        self.lines.drain(..old.unwrap_or(0));
        figures
    }
}
