//! What a host tells of a VMM in it: processor time, and KVM's counters.

use std::collections::BTreeMap;

use super::sample::HostFigures;
use super::window::rates;
use testbed::Host;
use testbed::{Error, Result};

/// `/proc/PID/stat` counts in these: `sysconf(_SC_CLK_TCK)`, 100 on every Linux with x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

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

/// The counters of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// Seconds since the host's boot.
    seconds: f64,
    /// Processor time of the VMM so far, in ticks.
    ticks: u64,
    /// What the host's processors did so far, in ticks.
    profile: BTreeMap<String, u64>,
    /// Bytes sent to the other host and received from it so far.
    network: u64,
    /// Frames and their bytes so far, by where they went, as the guest sees it.
    frames: BTreeMap<String, [u64; 2]>,
    kvm: BTreeMap<String, u64>,
}

/// Makes KVM's counters readable in an emulated host.
pub(super) fn prepare(host: &Host) -> Result<()> {
    let script = format!(
        "[ -d {KVM} ] || mount -t debugfs debugfs /sys/kernel/debug || echo no debugfs here"
    );
    host.check(&["sh", "-c", &script]).map(drop)
}

/// Reads the counters of a VMM and its host. What is to be read is known before, and is read in one go:
/// a search for the VMM that took a second would be a second in which nothing is measured.
#[derive(Debug)]
pub(super) struct HostMeter<'a> {
    host: &'a Host,
    paths: Vec<String>,
}

impl<'a> HostMeter<'a> {
    /// For the VMM whose command line begins with `command`.
    pub(super) fn new(host: &'a Host, command: &str) -> Result<Self> {
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
    pub(super) fn read(&self) -> Result<Reading> {
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
        match path.as_str() {
            UPTIME => times.push(text.split(' ').next()?.parse::<f64>().ok()?),
            PROCESSORS => reading.add_host(text)?,
            INTERFACES => reading.add_interfaces(text),
            path if path.starts_with(KVM) => {
                let (_, counter) = path.rsplit_once('/')?;
                let value = text.trim_end().parse().ok()?;
                reading.kvm.insert(counter.to_owned(), value);
            }
            path => {
                let (name, stat) = text.trim_end().rsplit_once(") ")?;
                let times = Times::of(stat)?;
                if path.contains("/task/") {
                    let (_, name) = name.split_once('(')?;
                    times.add_to(&mut reading.profile, name);
                } else {
                    reading.ticks += times.user + times.system;
                }
            }
        }
    }
    reading.seconds = f64::midpoint(*times.first()?, *times.last()?);
    Some(reading)
}

/// Bytes and packets of an interface, received and sent, by what `/proc/net/dev` has behind its name.
fn traffic(line: &str) -> Option<[[u64; 2]; 2]> {
    // Eight counters of what was received, and as many of what was sent.
    let counters = line.split_whitespace();
    let counters: Vec<u64> = counters.map_while(|field| field.parse().ok()).collect();
    let [received, received_packets, ..] = counters[..] else {
        return None;
    };
    let [sent, sent_packets] = *counters.get(8..10)? else {
        return None;
    };
    Some([[received, received_packets], [sent, sent_packets]])
}

/// Processor times of a thread or process, in ticks.
struct Times {
    /// With `guest`.
    user: u64,
    system: u64,
    guest: u64,
}

impl Times {
    /// By what `/proc/PID/stat` has behind the name.
    fn of(stat: &str) -> Option<Self> {
        // Field 3 of proc(5) comes first here.
        let fields: Vec<&str> = stat.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user: field(14)?,
            system: field(15)?,
            guest: field(43)?,
        })
    }

    /// Adds those of the thread `name`. The one that runs the guest has three parts.
    fn add_to(&self, profile: &mut BTreeMap<String, u64>, name: &str) {
        let mut add = |what: &str, ticks: u64| {
            *profile.entry(what.to_owned()).or_default() += ticks;
        };
        if self.guest > 0 {
            add("guest", self.guest);
            add("vCPU thread: VMM", self.user.saturating_sub(self.guest));
            add("vCPU thread: kernel", self.system);
        } else {
            add(name, self.user + self.system);
        }
    }
}

/// Memory that a host can still give away, in MiB, by its `/proc/meminfo`.
pub(super) fn available_mib(meminfo: &str) -> u64 {
    let mut lines = meminfo.lines();
    let kib = lines.find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

impl Reading {
    /// Adds what the host's processors did, by `/proc/stat`.
    fn add_host(&mut self, text: &str) -> Option<()> {
        let host = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // Of /proc/stat in proc(5): user, nice, system, idle, iowait, irq, softirq.
        let fields: Vec<u64> = host
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        let [_, _, _, idle, wait, irq, softirq, ..] = fields[..] else {
            return None;
        };
        let shares = [
            ("host: idle", idle + wait),
            ("host: interrupts", irq + softirq),
        ];
        let shares = shares.map(|(name, ticks)| (name.to_owned(), ticks));
        self.profile.extend(shares);
        Some(())
    }

    /// Adds what the interfaces carried, by `/proc/net/dev`; those that the host has.
    fn add_interfaces(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, counters)) = line.split_once(':') else {
                continue;
            };
            match (name.trim(), traffic(counters)) {
                (LOGGING, Some([[received, _], [sent, _]])) => self.network = received + sent,
                // What the interface receives, the guest has sent.
                (GUEST, Some(both)) => {
                    let names = ["sent", "received"].map(str::to_owned);
                    self.frames = names.into_iter().zip(both).collect();
                }
                _ => {}
            }
        }
    }

    /// What happened since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> HostFigures {
        let seconds = (self.seconds - before.seconds).max(1e-3);
        let ticks = self.ticks.saturating_sub(before.ticks);
        let profile = self.profile.iter().map(|(what, ticks)| {
            let before = before.profile.get(what).copied().unwrap_or(0);
            let ticks = ticks.saturating_sub(before);
            (what.clone(), ticks as f64 / TICKS_PER_SECOND / seconds)
        });
        let mut frames_per_second = BTreeMap::new();
        let mut bytes_per_frame = BTreeMap::new();
        for (way, [bytes, frames]) in &self.frames {
            let [bytes_before, frames_before] = before.frames.get(way).copied().unwrap_or_default();
            let frames = frames.saturating_sub(frames_before) as f64;
            if frames > 0.0 {
                let bytes = bytes.saturating_sub(bytes_before) as f64;
                frames_per_second.insert(way.clone(), frames / seconds);
                bytes_per_frame.insert(way.clone(), bytes / frames);
            }
        }
        HostFigures {
            frames_per_second,
            bytes_per_frame,
            profile: profile.filter(|(_, share)| *share > 0.0).collect(),
            cpu: ticks as f64 / TICKS_PER_SECOND / seconds,
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
                 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {guest} 0\n"
            )
        };
        let interfaces = format!(
            "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
             logging: {} 9 0 0 0 0 0 0 500000 7 0 0 0 0 0 0\n    \
             lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
             tap0:{} {user} 0 0 0 0 0 0 100 7 0 0 0 0 0 0\n",
            user * 1000,
            user * 60,
        );
        let name = "qemu-system (x86)";
        [
            (UPTIME, format!("{:.2} 0.03\n", uptime - 0.5)),
            (
                PROCESSORS,
                format!("cpu  10 0 20 {user} 5 6 7 0 0 0\ncpu0 1 2 3\n"),
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
        assert_eq!(share("host: idle"), Some(0.5));
        assert_eq!(share("qemu-system (x86)"), None, "it did nothing meanwhile");
        assert_eq!(figures.frames_per_second["sent"], 50.0);
        assert_eq!(figures.bytes_per_frame["sent"], 60.0);
        assert_eq!(figures.frames_per_second.get("received"), None);
        // 500,000 bytes in 10 s.
        assert!((figures.channel_mbit - 0.4).abs() < 1e-9, "{figures:?}");
        assert_eq!(
            figures.kvm_per_second,
            BTreeMap::from([("exits".to_owned(), 50.0)])
        );
        assert_eq!(figures.kvm_gap, None);
    }

    #[test]
    fn available_memory_is_not_free_memory() {
        let text = "MemTotal: 2000 kB\nMemFree:  1 kB\nMemAvailable:    204800 kB\n";
        assert_eq!(available_mib(text), 200);
        assert_eq!(available_mib(""), 0);
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
