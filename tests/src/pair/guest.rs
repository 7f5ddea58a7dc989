//! Guests, and how `ftvm` is told to replicate them.

use std::time::Duration;

use guest_images::load::{Load, MEMORY_MIB};
use guest_images::{GuestImages, debian};

use super::{DiskServer, Side};
use crate::error::Result;
use crate::host::Host;
use crate::layout::{Layout, SABOTAGED_FTVM};
use crate::network::{GUEST, Network, guest_address, guest_mac};
use crate::wait::LIMIT;

/// Where a primary listens for its backup.
const LOG_PORT: u16 = 7000;
/// Where a backup does on its primary's own host, once it has gone live.
const SECOND_LOG_PORT: u16 = 7001;

/// How long hosts wait for one another unless a scenario says how long: longer than `ftvm` does by
/// itself, because they are emulated. Where the machine's processors are somebody else's for half a
/// second, nobody is lost.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// What a guest has that only counts, in MiB.
const COUNTING_MIB: &str = "80";
const HEARTBEAT_OPTION: &str = "--heartbeat-timeout";
const LISTEN_OPTION: &str = "--listen";
/// The guest is protected from its first instruction on.
const WAIT_OPTION: &str = "--wait-for-backup";

/// Words with which a stock kernel leaves out work of its boot that takes long in an emulated host, and
/// whose results a guest does not miss:
///
/// - `noreplace-smp`: on one processor it takes some 8,800 lock prefixes out of its code, each under page
///   tables of its own (`text_poke`): two loads of CR3 and a page fault, half of all exits that a boot
///   makes inside KVM under shadow paging.
/// - `cryptomgr.notests` and the initcalls: it tests its cryptography, loads the certificate that its
///   modules are signed with, and makes files for kprobes: a fourth of what is left up to process 1.
macro_rules! quick_with_timer {
    () => {
        "noreplace-smp cryptomgr.notests \
         initcall_blacklist=crypto_kdf108_init,load_system_certificate_list,init_kprobe_trace"
    };
}
const QUICK_WITH_TIMER: &str = quick_with_timer!();

/// The words of [`Boot::Quick`].
pub const QUICK: &str = concat!(quick_with_timer!(), " nolapic_timer");

/// What a guest does at its boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Boot {
    /// All that a stock kernel does.
    #[default]
    Stock,
    /// Not what makes most of its work in an emulated host, and does not show later.
    QuickWithTimer,
    /// The same, and it does not use the local APIC's timer. It would find out how fast that is by
    /// awaiting 26 ticks in a loop without an exit; each ends in a state delta, and waits for the latency
    /// bound: a third of a replicated boot.
    Quick,
}

/// A guest that can be replicated.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// A kernel in the hosts: the name of an image, or an absolute path.
    pub kernel: String,
    /// Its initramfs, like the kernel.
    pub initrd: String,
    /// Words for its kernel.
    pub words: String,
    /// Further options that make it what it is.
    pub options: Vec<String>,
    /// The `ftvm` that runs it: a name, or a path in the hosts.
    pub program: String,
}

impl Guest {
    /// A guest with a Redis server at [`GUEST`].
    #[must_use]
    pub fn redis(name: &str) -> Self {
        Self {
            initrd: "redis.cpio".to_owned(),
            words: format!("quiet mitigations=off ftvm.ip={GUEST}/24"),
            options: ["--tap", "tap0"].map(str::to_owned).to_vec(),
            ..Self::tiny(name, "")
        }
    }

    /// One of several guests, with this number, from 1: at [`guest_address`], port 7, every line is answered with its
    /// number. It has nothing else to do, and hardly more memory than its kernel needs.
    #[must_use]
    pub fn counting(name: &str, number: u8) -> Self {
        let address = guest_address(number);
        let words = format!("ftvm.work=0 ftvm.do=count ftvm.ip={address}/24");
        let mut guest = Self::tiny(name, &words);
        let mac = guest_mac(number)
            .map(|byte| format!("{byte:02x}"))
            .join(":");
        let options = ["--tap", "tap0", "--mac", &mac, "--memory", COUNTING_MIB];
        guest.options.extend(options.map(str::to_owned));
        guest
    }

    /// A guest with a Redis server at [`GUEST`], and something that computes
    /// beside it.
    #[must_use]
    pub fn load(name: &str, load: Load) -> Self {
        let mut guest = Self::tools(name);
        guest.words.push_str(&format!(" {}", load.word()));
        guest
    }

    /// A guest with a Redis server at [`GUEST`], and with tools that a client starts in it.
    #[must_use]
    pub fn tools(name: &str) -> Self {
        let mut guest = Self::redis(name);
        guest.initrd = GuestImages::LOAD.to_owned();
        let memory = MEMORY_MIB.to_string();
        guest.options.extend(["--memory".to_owned(), memory]);
        guest
    }

    /// A guest whose workers write to its disk and read it back, for ever, and tell of it on the
    /// console (`guest_images::disk`).
    #[must_use]
    pub fn disk_workers(name: &str, uri: &str) -> Self {
        let mut guest = Self::tiny(name, "ftvm.work=0 ftvm.do=disk").with_disk(uri);
        guest.options.push("--console".to_owned());
        guest
    }

    /// As [`Guest::disk_workers`]; it answers too: at [`GUEST`], port 7, every connection gets its
    /// bytes back.
    #[must_use]
    pub fn answering_disk_workers(name: &str, uri: &str) -> Self {
        let mut guest = Self::disk_workers(name, uri);
        guest.words.push_str(&format!(" ftvm.ip={GUEST}/24"));
        guest.options.extend(["--tap", "tap0"].map(str::to_owned));
        guest
    }

    /// Debian from its disk image ([`debian`]), with a PostgreSQL server at [`GUEST`].
    #[must_use]
    pub fn debian(name: &str, uri: &str) -> Self {
        let mut guest = Self::redis(name).with_disk(uri);
        guest.initrd = GuestImages::DISK.to_owned();
        let memory = debian::MEMORY_MIB.to_string();
        guest.options.extend(["--memory".to_owned(), memory]);
        guest
    }

    /// A guest that does what `words` say.
    #[must_use]
    pub fn tiny(name: &str, words: &str) -> Self {
        Self {
            name: name.to_owned(),
            kernel: "vmlinux".to_owned(),
            initrd: "tiny.cpio".to_owned(),
            words: format!("quiet mitigations=off {words}"),
            options: Vec::new(),
            program: "ftvm".to_owned(),
        }
    }

    /// The same guest, for a scenario that is not about its boot ([`Boot::Quick`]).
    #[must_use]
    pub fn quick(self) -> Self {
        self.boots(Boot::Quick)
    }

    /// The same guest with such a boot.
    #[must_use]
    pub fn boots(mut self, boot: Boot) -> Self {
        let words = match boot {
            Boot::Stock => return self,
            Boot::QuickWithTimer => QUICK_WITH_TIMER,
            Boot::Quick => QUICK,
        };
        self.words = format!("{} {words}", self.words);
        self
    }

    /// The same guest with a disk: an image of the disk server.
    #[must_use]
    pub fn with_disk(mut self, uri: &str) -> Self {
        self.options.extend(["--disk", uri].map(str::to_owned));
        self
    }

    /// The same guest, run by an `ftvm` that can be told to break itself; the hosts get that.
    ///
    /// # Errors
    ///
    /// When it was not built, or a host does not answer.
    pub fn sabotaged<'a>(mut self, hosts: impl IntoIterator<Item = &'a Host>) -> Result<Self> {
        let program = Layout::find().program(SABOTAGED_FTVM)?;
        for host in hosts {
            self.program = host.provide(&program, SABOTAGED_FTVM)?;
        }
        Ok(self)
    }

    /// Gives it so much memory, in MiB.
    pub fn set_memory(&mut self, mib: u32) {
        if let Some(place) = self.options.iter().position(|option| option == "--memory") {
            self.options.drain(place..place + 2);
        }
        self.options
            .extend(["--memory".to_owned(), mib.to_string()]);
    }

    /// Starts `ftvm run` on a host: the guest without a backup.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn alone(&self, host: &Host) -> Result<Side> {
        Side::start(host, &self.unreplicated(host, &["run"]))
    }

    /// Starts `ftvm record` on a host: the guest without a backup, its log in a file there.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn recording(&self, host: &Host, log: &str) -> Result<Side> {
        Side::start(host, &self.unreplicated(host, &["record", "--log", log]))
    }

    fn unreplicated(&self, host: &Host, role: &[&str]) -> Vec<String> {
        let mut argv = vec![self.program.clone()];
        argv.extend(role.iter().map(|&word| word.to_owned()));
        argv.extend(["--name", &self.name, "--events", "-", "--plain"].map(str::to_owned));
        argv.extend(self.images(host));
        argv.extend_from_slice(&self.options);
        argv
    }

    /// Starts `ftvm primary` on a host, with further options; it waits for its backup. Without a
    /// heartbeat timeout among them it is [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn primary(&self, host: &Host, disk: &DiskServer, options: &[&str]) -> Result<Side> {
        self.primary_at(host, disk, &log_address(host), options)
    }

    /// As [`Guest::primary`], with its logging channel at another address.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn primary_at(
        &self,
        host: &Host,
        disk: &DiskServer,
        log: &str,
        options: &[&str],
    ) -> Result<Side> {
        self.start_primary(host, disk, log, &[&[WAIT_OPTION], options].concat())
    }

    /// As [`Guest::primary`]; the guest starts at once, alone, and a backup may join.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn primary_at_once(
        &self,
        host: &Host,
        disk: &DiskServer,
        options: &[&str],
    ) -> Result<Side> {
        self.start_primary(host, disk, &log_address(host), options)
    }

    fn start_primary(
        &self,
        host: &Host,
        disk: &DiskServer,
        log: &str,
        options: &[&str],
    ) -> Result<Side> {
        let mut argv = self.argv("primary", host, disk)?;
        argv.extend([LISTEN_OPTION, log].map(str::to_owned));
        if !options.contains(&HEARTBEAT_OPTION) {
            let timeout = PATIENCE.as_millis().to_string();
            argv.extend([HEARTBEAT_OPTION.to_owned(), timeout]);
        }
        argv.extend(options.iter().map(|&option| option.to_owned()));
        Side::start(host, &argv)
    }

    /// Starts `ftvm backup` on a host, for the primary on another one.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn backup(&self, host: &Host, primary: &Host, disk: &DiskServer) -> Result<Side> {
        self.backup_with(host, primary, disk, &[])
    }

    /// As [`Guest::backup`], with further options.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn backup_with(
        &self,
        host: &Host,
        primary: &Host,
        disk: &DiskServer,
        options: &[&str],
    ) -> Result<Side> {
        let mut argv = self.argv("backup", host, disk)?;
        argv.extend(["--connect", &log_address(primary)].map(str::to_owned));
        if host.name() == primary.name() && !options.contains(&LISTEN_OPTION) {
            let listen = format!("{}:{SECOND_LOG_PORT}", host.address(Network::Logging));
            argv.extend([LISTEN_OPTION.to_owned(), listen]);
        }
        argv.extend(options.iter().map(|&option| option.to_owned()));
        Side::start(host, &argv)
    }

    /// Starts `ftvm backup` on a host that is idle until the disk server proposes it to a primary.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn idle_backup(&self, host: &Host, disk: &DiskServer) -> Result<Side> {
        self.idle_backup_with(host, disk, &[])
    }

    /// As [`Guest::idle_backup`], with further options.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub fn idle_backup_with(
        &self,
        host: &Host,
        disk: &DiskServer,
        options: &[&str],
    ) -> Result<Side> {
        let mut argv = self.argv("backup", host, disk)?;
        argv.extend(options.iter().map(|&option| option.to_owned()));
        Side::start(host, &argv)
    }

    /// Starts `ftvm backup` on a host for a guest that runs, alone, on that of `primary`, and waits until
    /// it protects the guest. What the primary told before is forgotten.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or the backup does not join.
    pub fn join(
        &self,
        host: &Host,
        (on, primary): (&Host, &mut Side),
        disk: &DiskServer,
        options: &[&str],
    ) -> Result<Side> {
        primary.forget_events();
        let mut backup = self.backup_with(host, on, disk, options)?;
        primary.wait_for("protected", LIMIT)?;
        backup.wait_for("joined", LIMIT)?;
        Ok(backup)
    }

    fn argv(&self, role: &str, host: &Host, disk: &DiskServer) -> Result<Vec<String>> {
        disk.define(&self.name)?;
        let mut argv = [&self.program, role, "--name", &self.name]
            .map(str::to_owned)
            .to_vec();
        argv.extend(self.images(host));
        argv.extend(["--disk-server", disk.address(), "--events", "-"].map(str::to_owned));
        argv.extend(["--host", host.name()].map(str::to_owned));
        argv.extend(disk.key_options().iter().map(|&option| option.to_owned()));
        argv.extend_from_slice(&self.options);
        Ok(argv)
    }

    /// The options that say what is booted.
    fn images(&self, host: &Host) -> [String; 6] {
        let path = |image: &String| match image.starts_with('/') {
            true => image.clone(),
            false => host.image(image),
        };
        let (kernel, initrd) = (path(&self.kernel), path(&self.initrd));
        [
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--append",
            &self.words,
        ]
        .map(str::to_owned)
    }
}

/// Where the primary on a host has its logging channel.
#[must_use]
pub fn log_address(host: &Host) -> String {
    format!("{}:{LOG_PORT}", host.address(Network::Logging))
}
