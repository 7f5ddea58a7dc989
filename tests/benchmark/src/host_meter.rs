//! What a host tells of a VMM in it: processor time, and KVM's counters.

use std::collections::BTreeMap;

use procfs_core::net::InterfaceDeviceStatus;
use procfs_core::prelude::*;
use procfs_core::process::Stat;
use procfs_core::{ExplicitSystemInfo, KernelStats, Meminfo};
use testbed::{Error, Host, Result};

use crate::sample::HostFigures;
use crate::window::rates;

/// `/proc/PID/stat` counts in these: `sysconf(_SC_CLK_TCK)`, 100 on every Linux with x86-64.
const TICKS_PER_SECOND: u64 = 100;

/// Where KVM has its counters: see `struct kvm_vcpu_stat` in the kernel's `arch/x86/kvm`.
const KVM: &str = "/sys/kernel/debug/kvm";

/// KVM's counters that say what the guest and the VMM did.
const COUNTERS: [&str; 9] = [
    "exits",
    "io_exits",
    "mmio_exits",
    "halt_exits",
    "irq_exits",
    "irq_window_exits",
    "signal_exits",
    "insn_emulation",
    "pf_taken",
];

const UPTIME: &str = "/proc/uptime";
const PROCESSORS: &str = "/proc/stat";
const INTERFACES: &str = "/proc/net/dev";
/// Those of the logging network, and of the guest.
const LOGGING: &str = "logging";
const GUEST: &str = "tap0";

/// The host's idle time in a profile.
pub(crate) const IDLE: &str = "host: idle";

/// What readers of `/proc` have to know of the machine.
pub(crate) fn system() -> ExplicitSystemInfo {
    ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: TICKS_PER_SECOND,
        page_size: 4096,
        is_little_endian: true,
    }
}

/// The counters of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reading {
    /// Seconds since the host's boot.
    seconds: f64,
    /// Processor time of the VMM so far, in ticks.
    ticks: u64,
    /// What the host's processors did so far, in ticks.
    profile: BTreeMap<String, u64>,
    /// Bytes sent to the other host and received from it so far.
    network: u64,
    /// Bytes and frames so far, by where they went, as the guest sees it.
    frames: BTreeMap<String, [u64; 2]>,
    kvm: BTreeMap<String, u64>,
}

/// Makes KVM's counters readable in an emulated host.
pub(crate) fn prepare(host: &Host) -> Result<()> {
    let script = format!(
        "[ -d {KVM} ] || mount -t debugfs debugfs /sys/kernel/debug || echo no debugfs here"
    );
    host.check(&["sh", "-c", &script]).map(drop)
}

/// Memory that can still be given away, in MiB, by `/proc/meminfo`.
pub(crate) fn available_mib(meminfo: &str) -> u64 {
    let memory = Meminfo::from_read(meminfo.as_bytes()).ok();
    memory.and_then(|all| all.mem_available).unwrap_or(0) >> 20
}

/// Reads the counters of a VMM and its host. What is to be read is known before, and is read in one go:
/// a search for the VMM that took a second would be a second in which nothing is measured.
#[derive(Debug)]
pub(crate) struct HostMeter<'a> {
    host: &'a Host,
    paths: Vec<String>,
}

impl<'a> HostMeter<'a> {
    /// For the VMM whose command line begins with `command`.
    pub(crate) fn new(host: &'a Host, command: &str) -> Result<Self> {
        let lines = host.agent().glance(vec!["/proc/*/cmdline".to_owned()])?;
        let beginning = format!("{}\0", command.replace(' ', "\0"));
        let ours = lines
            .iter()
            .filter(|(_, line)| line.starts_with(&beginning))
            .filter_map(|(path, _)| path.strip_suffix("/cmdline"));
        let processes: Vec<String> = ours
            .flat_map(|process| [format!("{process}/stat"), format!("{process}/task/*/stat")])
            .collect();
        if processes.is_empty() {
            return Err(Error::Refused {
                host: host.name().to_owned(),
                reason: format!("no process `{command}`"),
            });
        }
        // The time before and after, for the one in the middle.
        let mut paths = vec![UPTIME.to_owned(), PROCESSORS.to_owned()];
        paths.extend(processes);
        paths.push(INTERFACES.to_owned());
        paths.extend(COUNTERS.map(|counter| format!("{KVM}/{counter}")));
        paths.push(UPTIME.to_owned());
        Ok(Self { host, paths })
    }

    /// What they are now.
    pub(crate) fn read(&self) -> Result<Reading> {
        let files = self.host.agent().glance(self.paths.clone())?;
        parse(&files).ok_or_else(|| Error::Refused {
            host: self.host.name().to_owned(),
            reason: format!("not the counters that were expected:\n{files:?}"),
        })
    }
}

fn parse(files: &[(String, String)]) -> Option<Reading> {
    let mut reading = Reading::default();
    let mut times = Vec::new();
    for (path, text) in files {
        let bytes = text.as_bytes();
        match path.as_str() {
            UPTIME => times.push(text.split(' ').next()?.parse::<f64>().ok()?),
            PROCESSORS => {
                let cpu = KernelStats::from_read(bytes, &system()).ok()?.total;
                let idle = cpu.idle + cpu.iowait?;
                reading.profile.insert(IDLE.to_owned(), idle);
                let interrupts = cpu.irq? + cpu.softirq?;
                reading
                    .profile
                    .insert("host: interrupts".to_owned(), interrupts);
            }
            INTERFACES => reading.add_interfaces(&InterfaceDeviceStatus::from_read(bytes).ok()?),
            path if path.starts_with(KVM) => {
                let (_, counter) = path.rsplit_once('/')?;
                let value = text.trim_end().parse().ok()?;
                reading.kvm.insert(counter.to_owned(), value);
            }
            path => {
                let stat = Stat::from_read(bytes).ok()?;
                match path.contains("/task/") {
                    true => reading.add_thread(&stat),
                    false => reading.ticks += stat.utime + stat.stime,
                }
            }
        }
    }
    reading.seconds = f64::midpoint(*times.first()?, *times.last()?);
    Some(reading)
}

impl Reading {
    /// Adds what a thread of the VMM did. The one that runs the guest has three parts.
    fn add_thread(&mut self, stat: &Stat) {
        let mut add = |what: &str, ticks: u64| {
            *self.profile.entry(what.to_owned()).or_default() += ticks;
        };
        match stat.guest_time.unwrap_or(0) {
            0 => add(&stat.comm, stat.utime + stat.stime),
            guest => {
                add("guest", guest);
                add("vCPU thread: VMM", stat.utime.saturating_sub(guest));
                add("vCPU thread: kernel", stat.stime);
            }
        }
    }

    /// Adds what the interfaces carried; those that the host has.
    fn add_interfaces(&mut self, interfaces: &InterfaceDeviceStatus) {
        if let Some(logging) = interfaces.0.get(LOGGING) {
            self.network = logging.recv_bytes + logging.sent_bytes;
        }
        if let Some(guest) = interfaces.0.get(GUEST) {
            // What the interface receives, the guest has sent.
            self.frames = [
                ("sent", [guest.recv_bytes, guest.recv_packets]),
                ("received", [guest.sent_bytes, guest.sent_packets]),
            ]
            .map(|(way, both)| (way.to_owned(), both))
            .into();
        }
    }

    /// What happened since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> HostFigures {
        let seconds = (self.seconds - before.seconds).max(1e-3);
        let ticks_in_all = seconds * TICKS_PER_SECOND as f64;
        let of = |reading: &Self, which: usize| -> BTreeMap<String, u64> {
            let frames = reading.frames.iter();
            frames
                .map(|(way, both)| (way.clone(), both[which]))
                .collect()
        };
        let [bytes, frames] = [0, 1].map(|at| rates(&of(before, at), &of(self, at), seconds));
        let size = |(way, rate): (&String, &f64)| Some((way.clone(), bytes.get(way)? / rate));
        HostFigures {
            bytes_per_frame: frames.iter().filter_map(size).collect(),
            frames_per_second: frames,
            profile: rates(&before.profile, &self.profile, ticks_in_all),
            cpu: self.ticks.saturating_sub(before.ticks) as f64 / ticks_in_all,
            channel_mbit: self.network.saturating_sub(before.network) as f64 * 8.0 / 1e6 / seconds,
            kvm_per_second: rates(&before.kvm, &self.kvm, seconds),
            kvm_gap: self
                .kvm
                .is_empty()
                .then(|| format!("{KVM} cannot be read in the host")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(uptime: f64, user: u64, exits: u64) -> Vec<(String, String)> {
        let stat = |name: &str, user: u64, system: u64, guest: u64| {
            format!(
                "101 ({name}) S 90 0 0 0 -1 138412416 7178 0 0 0 {user} {system} 0 0 20 0 3 0 1371 0 0 0 \
                 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {guest} 0 0 0 0 0 0 0 0\n"
            )
        };
        let interfaces = format!(
            "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
             logging: {} 9 0 0 0 0 0 0 500000 7 0 0 0 0 0 0\n    \
             lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
             tap0: {} {user} 0 0 0 0 0 0 100 7 0 0 0 0 0 0\n",
            user * 1000,
            user * 60,
        );
        let name = "qemu-system (x86)";
        [
            (UPTIME, format!("{:.2} 0.03\n", uptime - 0.5)),
            (
                PROCESSORS,
                format!("cpu  10 0 20 {user} 5 6 7 0 0 0\nctxt 1\nbtime 1\nprocesses 1\n"),
            ),
            ("/proc/101/stat", stat(name, user, 277, 9)),
            ("/proc/101/task/101/stat", stat(name, 0, 277, 0)),
            (
                "/proc/101/task/102/stat",
                stat("CPU 0/KVM", user, 0, user / 2),
            ),
            (INTERFACES, interfaces),
            ("/sys/kernel/debug/kvm/exits", format!("{exits}\n")),
            ("/sys/kernel/debug/kvm/io_exits", "3461\n".to_owned()),
            (UPTIME, format!("{:.2} 0.03\n", uptime + 0.5)),
        ]
        .map(|(path, text)| (path.to_owned(), text))
        .into()
    }

    #[test]
    fn figures_are_the_growth_in_a_second() {
        let before = parse(&files(31.0, 1000, 9000)).expect("a reading");
        let after = parse(&files(41.0, 1500, 9500)).expect("a reading");
        let figures = after.since(&before);
        assert!((figures.cpu - 0.5).abs() < 1e-9, "{figures:?}");
        let share = |what: &str| figures.profile.get(what).copied();
        assert_eq!(share("guest"), Some(0.25));
        assert_eq!(share("vCPU thread: VMM"), Some(0.25));
        assert_eq!(share(IDLE), Some(0.5));
        assert_eq!(share("qemu-system (x86)"), None, "it did nothing meanwhile");
        assert_eq!(figures.frames_per_second["sent"], 50.0);
        assert_eq!(figures.bytes_per_frame["sent"], 60.0);
        assert_eq!(figures.frames_per_second.get("received"), None);
        // 500,000 bytes in 10 s.
        assert!((figures.channel_mbit - 0.4).abs() < 1e-9, "{figures:?}");
        let exits: BTreeMap<String, f64> = [("exits".to_owned(), 50.0)].into();
        assert_eq!((figures.kvm_per_second, figures.kvm_gap), (exits, None));
    }

    #[test]
    fn no_counters_are_a_gap_and_no_time_is_no_reading() {
        let mut files = files(31.0, 1, 2);
        files.retain(|(path, _)| !path.starts_with(KVM));
        let reading = parse(&files).expect("a reading");
        assert!(reading.since(&reading).kvm_gap.is_some());
        files.retain(|(path, _)| path != UPTIME);
        assert_eq!(parse(&files), None);
        assert_eq!(parse(&[]), None);
    }
}
