//! What a host tells of a VMM in it: processor time, the network, and KVM's counters.

use procfs_core::net::InterfaceDeviceStatus;
use procfs_core::prelude::*;
use procfs_core::process::Stat;
use procfs_core::{ExplicitSystemInfo, KernelStats};
use testbed::{Error, Host, Result};

use crate::figures::{Figures, growth};

/// `/proc/PID/stat` counts in these: `sysconf(_SC_CLK_TCK)`, 100 on every Linux with x86-64.
const TICKS_PER_SECOND: u64 = 100;

/// Where KVM has its counters: see `struct kvm_vcpu_stat` in the kernel's `arch/x86/kvm`.
const KVM: &str = "/sys/kernel/debug/kvm";

/// Those that say what the guest and the VMM did; the last ones, what shadow paging takes.
const COUNTERS: &str = "exits io_exits mmio_exits halt_exits irq_exits irq_window_exits \
     signal_exits insn_emulation pf_taken pf_fixed invlpg tlb_flush mmu_shadow_zapped mmu_pte_write \
     mmu_flooded mmu_recycled mmu_cache_miss mmu_unsync";

const UPTIME: &str = "/proc/uptime";
const PROCESSORS: &str = "/proc/stat";
const INTERFACES: &str = "/proc/net/dev";

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
    /// What grows, by the names of the figures that its growth in a second is.
    counters: Figures,
}

/// Makes KVM's counters readable in an emulated host.
pub(crate) fn prepare(host: &Host) -> Result<()> {
    let script = format!(
        "[ -d {KVM} ] || mount -t debugfs debugfs /sys/kernel/debug || echo no debugfs here"
    );
    host.check(&["sh", "-c", &script]).map(drop)
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
        paths.extend(
            COUNTERS
                .split(' ')
                .map(|counter| format!("{KVM}/{counter}")),
        );
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
    let mut counters = Figures::new();
    let mut add = |name: &str, amount: f64| {
        *counters.entry(name.to_owned()).or_default() += amount;
    };
    let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND as f64;
    let mut times = Vec::new();
    for (path, text) in files {
        let bytes = text.as_bytes();
        match path.as_str() {
            UPTIME => times.push(text.split(' ').next()?.parse::<f64>().ok()?),
            PROCESSORS => {
                let cpu = KernelStats::from_read(bytes, &system()).ok()?.total;
                add("time, host: idle", seconds(cpu.idle + cpu.iowait?));
                add("time, host: interrupts", seconds(cpu.irq? + cpu.softirq?));
            }
            INTERFACES => {
                let interfaces = InterfaceDeviceStatus::from_read(bytes).ok()?;
                let megabits = |bytes: u64| bytes as f64 * 8.0 / 1e6;
                if let Some(logging) = interfaces.0.get("logging") {
                    let both = logging.recv_bytes + logging.sent_bytes;
                    add("logging network, Mbit/s", megabits(both));
                }
                // As the guest sees it: what the interface receives, the guest has sent.
                if let Some(tap) = interfaces.0.get("tap0") {
                    add("sent, Mbit/s", megabits(tap.recv_bytes));
                    add("sent, frames/s", tap.recv_packets as f64);
                    add("received, Mbit/s", megabits(tap.sent_bytes));
                    add("received, frames/s", tap.sent_packets as f64);
                }
            }
            path if path.starts_with(KVM) => {
                let (_, counter) = path.rsplit_once('/')?;
                add(&format!("KVM, {counter}/s"), text.trim_end().parse().ok()?);
            }
            path => {
                let stat = Stat::from_read(bytes).ok()?;
                let (user, system) = (stat.utime, stat.stime);
                match (path.contains("/task/"), stat.guest_time.unwrap_or(0)) {
                    (false, _) => add("CPU", seconds(user + system)),
                    (true, 0) => add(&format!("time, {}", stat.comm), seconds(user + system)),
                    (true, guest) => {
                        add("time, guest", seconds(guest));
                        add(
                            "time, vCPU thread: VMM",
                            seconds(user.saturating_sub(guest)),
                        );
                        add("time, vCPU thread: kernel", seconds(system));
                    }
                }
            }
        }
    }
    Some(Reading {
        seconds: f64::midpoint(*times.first()?, *times.last()?),
        counters,
    })
}

impl Reading {
    /// What happened in a second since an earlier reading, on the host of that side.
    pub(crate) fn since(&self, before: &Self, side: &str) -> Figures {
        let seconds = (self.seconds - before.seconds).max(1e-3);
        let all = growth(&before.counters, &self.counters, seconds).into_iter();
        all.map(|(name, rate)| (format!("{side}: {name}"), rate))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(uptime: f64, user: u64, exits: u64) -> Vec<(String, String)> {
        let stat = |name: &str, user: u64, system: u64, guest: u64| {
            let zeros = "0 ".repeat(27);
            format!(
                "101 ({name}) S 90 0 0 0 -1 1 7178 0 0 0 {user} {system} {zeros}{guest} 0 0 0\n"
            )
        };
        let (logged, sent) = (user * 1000, user * 60);
        let interfaces = format!(
            "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
             logging: {logged} 9 0 0 0 0 0 0 500000 7 0 0 0 0 0 0\n\
             tap0: {sent} {user} 0 0 0 0 0 0 100 7 0 0 0 0 0 0\n",
        );
        let processors = format!("cpu  10 0 20 {user} 5 6 7 0 0 0\nctxt 1\nbtime 1\nprocesses 1\n");
        [
            (UPTIME, format!("{:.2} 0.03\n", uptime - 0.5)),
            (PROCESSORS, processors),
            ("/proc/101/stat", stat("qemu (x86)", user, 277, 9)),
            ("/proc/101/task/101/stat", stat("qemu (x86)", 0, 277, 0)),
            (
                "/proc/101/task/102/stat",
                stat("CPU 0/KVM", user, 0, user / 2),
            ),
            (INTERFACES, interfaces),
            ("/sys/kernel/debug/kvm/exits", format!("{exits}\n")),
            (UPTIME, format!("{:.2} 0.03\n", uptime + 0.5)),
        ]
        .map(|(path, text)| (path.to_owned(), text))
        .into()
    }

    #[test]
    fn figures_are_the_growth_in_a_second() {
        let before = parse(&files(31.0, 1000, 9000)).expect("a reading");
        let after = parse(&files(41.0, 1500, 9500)).expect("a reading");
        let figures = after.since(&before, "primary");
        for (name, expected) in [
            ("CPU", 0.5),
            ("time, guest", 0.25),
            ("time, vCPU thread: VMM", 0.25),
            ("time, host: idle", 0.5),
            ("time, qemu (x86)", 0.0),
            ("sent, frames/s", 50.0),
            ("sent, Mbit/s", 0.024),
            // 500,000 bytes in 10 s.
            ("logging network, Mbit/s", 0.4),
            ("KVM, exits/s", 50.0),
        ] {
            let found = figures[&format!("primary: {name}")];
            assert!((found - expected).abs() < 1e-9, "{name}: {figures:?}");
        }
        assert_eq!(parse(&[]), None, "without a time");
    }
}
