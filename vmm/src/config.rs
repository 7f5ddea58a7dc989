//! What a virtual machine is made of: one TOML file, the same on both hosts.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use disk_server::fleet::{LagBounds, NamedHosts};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use transport::configuration::{self, Faults};

use crate::disk::uri::DiskUri;
use crate::rewrite::KernelReads;

/// Command line that every guest gets. The reasons, in order: the console is the 16550; the kernel
/// is where the rewritten image was linked; that the timer interrupts need not be tried out; the 8042
/// pulse is the way to reset; the one module of Linux that asks KVM for the host's clock is not loaded, also
/// from where ftvm does not see it.
const BASE_COMMAND_LINE: &str =
    "console=ttyS0 nokaslr no_timer_check reboot=k module_blacklist=ptp_kvm";

/// Revision of the machine: what its devices, its MSRs, its rewritten instructions and its rules of
/// interrupt delivery let a guest observe. To be raised with every change of these: two hosts that
/// differ in it would diverge, so they refuse each other.
const MACHINE_REVISION: u32 = 12;

/// Smallest and largest memory of a guest, in MiB.
pub const MEMORY_MIB: RangeInclusive<u64> = 32..=3072;

/// Shortest and longest heartbeat timeout, in milliseconds.
pub const HEARTBEAT_TIMEOUT_MS: RangeInclusive<u64> = 10..=600_000;

/// Which clock the guest's kernel is given. What each costs is in `docs/clock.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The ACPI power management timer: steps of 279 ns.
    PmTimer,
    /// KVM's paravirtual clock. Most reads are no exit: for kernel and programs time stands still between
    /// two exits, until the next tick or the 64th read at most.
    #[default]
    KvmClock,
    /// The same in steps of 1 ns, exact for kernel and programs. Each read is an exit, and the kernel reads
    /// the clock at every switch between processes.
    KvmClockExact,
    /// None: the kernel counts its timer's interrupts, in steps of 4 ms.
    Jiffies,
}

impl Clock {
    /// What the kernel has to be told on its command line. With a clock finer than ticks it
    /// programs its timer anew for every interrupt, and finds out when it was held up: one with a
    /// periodic timer loses the ticks that it missed.
    fn words(self) -> &'static str {
        match self {
            Self::KvmClock | Self::KvmClockExact => "",
            // A kernel that does not know the frequency of its time stamp counter measures how fast the
            // local APIC's timer and its delay loops are by awaiting ticks in a loop without an exit, in
            // which they come late: by seconds in all, where both counters wrap, and a tick that is many
            // times too short leaves the guest no time. It knows the 8254's frequency. The loops of a
            // delay are those of 4 ms at 3 GHz: a slower processor waits longer, which does no harm.
            Self::PmTimer => "nolapic_timer lpj=12000000",
            Self::Jiffies => "pmtmr=0 nolapic_timer lpj=12000000",
        }
    }

    /// Whether the processor offers KVM's paravirtual clock.
    #[must_use]
    pub fn is_paravirtual(self) -> bool {
        matches!(self, Self::KvmClock | Self::KvmClockExact)
    }

    /// How the kernel reads the time stamp counter. Where that is not its clock it needs no times
    /// of it, but numbers that differ.
    #[must_use]
    pub fn kernel_reads(self) -> KernelReads {
        match self {
            Self::KvmClockExact => KernelReads::Exact,
            Self::PmTimer | Self::KvmClock | Self::Jiffies => KernelReads::Cached,
        }
    }
}

/// A virtual machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Name: unique among the machines of one disk server.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Memory in MiB.
    #[serde(default = "default_memory", deserialize_with = "memory")]
    pub memory_mib: u64,
    /// Uncompressed kernel (vmlinux).
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: Option<PathBuf>,
    /// Kernel command line, added to what every guest gets.
    #[serde(default)]
    pub append: String,
    /// Ethernet address, six bytes in hexadecimal with colons.
    #[serde(default)]
    pub mac: Mac,
    /// Clock of the guest's kernel.
    #[serde(default)]
    pub clock: Clock,
    /// Its disk.
    pub disk: Option<DiskUri>,
    /// Silence after which one of its hosts takes the other for lost, in milliseconds, if no option says
    /// another one.
    #[serde(default, deserialize_with = "timeout")]
    pub heartbeat_timeout_ms: Option<u64>,
    /// From when on its backup's lag is told as more than it should be.
    #[serde(default, deserialize_with = "lag")]
    pub lag: LagBounds,
    /// The hosts that may run it.
    #[serde(default, deserialize_with = "hosts")]
    pub hosts: NamedHosts,
}

fn default_memory() -> u64 {
    128
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Default for Mac {
    /// Locally administered.
    fn default() -> Self {
        Self([0x52, 0x54, 0x00, 0xf7, 0x00, 0x01])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| {
            // Alone, `from_str_radix` would take a sign.
            let two_digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            two_digits.then(|| u8::from_str_radix(part, 16).ok())?
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        match bytes.and_then(|b| <[u8; 6]>::try_from(b).ok()) {
            Some([0, 0, 0, 0, 0, 0]) => Err(format!(
                "\"{text}\" is no card's address: Linux takes it for none"
            )),
            Some(mac) if mac[0] & 1 != 0 => Err(format!(
                "\"{text}\" is a multicast address, not a card's: its first byte is odd"
            )),
            Some(mac) => Ok(Self(mac)),
            None => Err(format!(
                "\"{text}\" is no Ethernet address like 52:54:00:f7:00:01"
            )),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}", faults.in_file(path))]
    Parse {
        /// Its path.
        path: PathBuf,
        /// All that is wrong.
        faults: Faults,
    },
}

/// Reads a file of which `parse` says what is wrong with it.
///
/// # Errors
/// [`ConfigError`].
pub(crate) fn read_with<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, Faults>,
) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|faults| ConfigError::Parse {
        path: path.to_owned(),
        faults,
    })
}

/// A machine's name, which is a file's name, too.
///
/// # Errors
/// It is none.
pub(crate) fn plain_name(name: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_hidden = name.starts_with('.');
    match (1..=64).contains(&name.len()) && name.bytes().all(is_plain) && !is_hidden {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "the name \"{name}\" is not 1 to 64 letters, digits, '-', '_' or '.', of which '.' is not the first"
        )),
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    plain_name(&name).map_err(D::Error::custom)
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let mib = u64::deserialize(deserializer)?;
    let (least, most) = (MEMORY_MIB.start(), MEMORY_MIB.end());
    match MEMORY_MIB.contains(&mib) {
        true => Ok(mib),
        false => Err(D::Error::custom(format!(
            "{mib} MiB of memory: a guest can have {least} to {most} MiB"
        ))),
    }
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    let (least, most) = (HEARTBEAT_TIMEOUT_MS.start(), HEARTBEAT_TIMEOUT_MS.end());
    match HEARTBEAT_TIMEOUT_MS.contains(&ms) {
        true => Ok(Some(ms)),
        false => Err(D::Error::custom(format!(
            "heartbeat_timeout_ms = {ms}: it can be {least} to {most}"
        ))),
    }
}

fn lag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LagBounds, D::Error> {
    let lag = LagBounds::deserialize(deserializer)?;
    let LagBounds { yellow_ms, red_ms } = lag;
    match yellow_ms <= red_ms {
        true => Ok(lag),
        false => Err(D::Error::custom(format!(
            "[lag] yellow_ms = {yellow_ms} and red_ms = {red_ms}: yellow must come first"
        ))),
    }
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NamedHosts, D::Error> {
    let hosts = NamedHosts::deserialize(deserializer)?;
    match hosts.is_nobody() {
        true => Err(D::Error::custom(
            "hosts = []: name the hosts that may run it, or leave that out for all",
        )),
        false => Ok(hosts),
    }
}

impl VmConfig {
    /// A machine with this kernel and defaults for all else.
    #[must_use]
    pub fn for_kernel(kernel: PathBuf) -> Self {
        Self {
            name: "guest".into(),
            memory_mib: default_memory(),
            kernel,
            initrd: None,
            append: String::new(),
            mac: Mac::default(),
            clock: Clock::default(),
            disk: None,
            heartbeat_timeout_ms: None,
            lag: LagBounds::default(),
            hosts: NamedHosts::default(),
        }
    }

    /// Reads what such a file says. Its paths stay as they are.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        configuration::parse(text)
    }

    /// Reads a TOML file. Relative paths in it are relative to it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Ok(read_with(path, Self::parse)?.in_folder_of(path))
    }

    /// The same with relative paths as they are meant in this file.
    #[must_use]
    pub fn in_folder_of(mut self, path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new("."));
        self.kernel = folder.join(&self.kernel);
        self.initrd = self.initrd.map(|initrd| folder.join(initrd));
        self
    }

    /// Memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    /// The whole kernel command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        [BASE_COMMAND_LINE, self.clock.words(), self.append.trim()]
            .into_iter()
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Digest of what the guest is made of beside its memory size and processor: images
    /// (`boot_digest`), device configuration, and the machine that this version of ftvm builds.
    #[must_use]
    pub fn image_digest(&self, boot_digest: [u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(MACHINE_REVISION.to_le_bytes());
        hash.update(boot_digest);
        hash.update(self.mac.0);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<VmConfig, String> {
        VmConfig::parse(text).map_err(|faults| faults.to_string())
    }

    #[test]
    fn small_file_is_enough() {
        let vm = config("name = \"redis\"\nkernel = \"vmlinux\"").unwrap();
        assert_eq!((vm.memory_bytes(), vm.mac), (128 << 20, Mac::default()));
    }

    #[test]
    fn the_heartbeat_timeout_and_the_lag_may_be_told() {
        let vm = config("name = \"a\"\nkernel = \"k\"").unwrap();
        assert_eq!(
            (vm.heartbeat_timeout_ms, vm.lag),
            (None, LagBounds::default())
        );
        let text = "name = \"a\"\nkernel = \"k\"\nheartbeat_timeout_ms = 200\n[lag]\nred_ms = 2000";
        let vm = config(text).unwrap();
        let lag = LagBounds {
            yellow_ms: 100,
            red_ms: 2000,
        };
        assert_eq!((vm.heartbeat_timeout_ms, vm.lag), (Some(200), lag));
    }

    #[test]
    fn the_clock_is_on_the_command_line_and_can_be_overruled() {
        let vm = config("name = \"a\"\nkernel = \"k\"\nappend = \"nohz=off\"").unwrap();
        assert_eq!(vm.clock, Clock::KvmClock);
        let words = vm.command_line();
        assert_eq!(words, format!("{BASE_COMMAND_LINE} nohz=off"));
        let text = "name = \"a\"\nkernel = \"k\"\nclock = \"jiffies\"\nappend = \"pmtmr=1\"";
        let words = config(text).unwrap().command_line();
        assert!(
            words.ends_with("pmtmr=0 nolapic_timer lpj=12000000 pmtmr=1"),
            "{words}"
        );
        for clock in ["kvm-clock", "kvm-clock-exact", "pm-timer", "jiffies"] {
            let text = format!("name = \"a\"\nkernel = \"k\"\nclock = \"{clock}\"");
            assert!(config(&text).is_ok(), "{clock}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, reason) in [
            ("name = \"a b\"\nkernel = \"k\"", "a b"),
            ("name = \".a\"\nkernel = \"k\"", "'.' is not the first"),
            ("name = \"a\"\nkernel = \"k\"\nmemory_mib = 1", "1 MiB"),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"01:00:00:00:00:00\"",
                "multicast",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"00:00:00:00:00:00\"",
                "no card's",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"+2:54:00:ab:cd:ef\"",
                "no Ethernet address",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"ff:ff:ff:ff:ff:ff\"",
                "multicast",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"52:54:00:ab:cd:\"",
                "no Ethernet address",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmac = \"52:54:00\"",
                "52:54:00",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nmemroy_mib = 64",
                "memroy_mib",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nclock = \"sundial\"",
                "sundial",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\nheartbeat_timeout_ms = 9",
                "heartbeat_timeout_ms = 9",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\n[lag]\nyellow_ms = 2000",
                "yellow must come first",
            ),
            (
                "name = \"a\"\nkernel = \"k\"\n[lag]\ngreen_ms = 1",
                "green_ms",
            ),
            ("name = \"a\"\nkernel = \"k\"\nhosts = []", "hosts = []"),
            (
                "name = \"a\"\nkernel = \"k\"\nhosts = [\"a/b\"]",
                "host name",
            ),
            ("kernel = \"k\"", "name"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
