//! What a host tells of a VMM in it: processor time, and KVM's counters.

use std::collections::BTreeMap;

use super::sample::HostFigures;
use super::window::rates;
use crate::error::{Error, Result};
use crate::host::Host;

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

/// What the script prints: the time, the host's processor times, a line of `/proc/PID/stat` for each
/// process whose command line begins with `$0` and one for each of its threads, the lines of the
/// logging network's interface and of the guest's, and KVM's counters.
const SCRIPT: &str = r#"
cat /proc/uptime
grep '^cpu ' /proc/stat
for process in /proc/[0-9]*; do
    case $(tr '\0' ' ' < $process/cmdline 2> /dev/null) in
        "$0 "*)
            cat $process/stat
            for thread in $process/task/*; do
                echo "thread $(cat $thread/stat)"
            done ;;
    esac
done
echo "network $(grep 'logging:' /proc/net/dev | tr : ' ')"
echo "guest $(grep 'tap0:' /proc/net/dev | tr : ' ')"
counters=$1
shift
cd "$counters" 2> /dev/null && grep -H . "$@"
exit 0
"#;

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

/// Reads the counters of the VMM whose command line begins with `command`.
pub(super) fn read(host: &Host, command: &str) -> Result<Reading> {
    let mut argv = vec!["sh", "-c", SCRIPT, command, KVM];
    argv.extend(COUNTERS);
    let text = host.check(&argv)?;
    parse(&text).ok_or_else(|| Error::Refused {
        host: host.name().to_owned(),
        reason: format!("no process `{command}` among its counters:\n{text}"),
    })
}

fn parse(text: &str) -> Option<Reading> {
    let mut lines = text.lines();
    let seconds = lines.next()?.split(' ').next()?.parse().ok()?;
    let mut reading = Reading {
        seconds,
        ..Reading::default()
    };
    let mut processes = 0;
    for line in lines {
        if let Some((name, stat)) = line.rsplit_once(") ") {
            let times = Times::of(stat)?;
            if name.starts_with("thread ") {
                let (_, name) = name.split_once('(')?;
                times.add_to(&mut reading.profile, name);
            } else {
                reading.ticks += times.user + times.system;
                processes += 1;
            }
        } else if let Some(host) = line.strip_prefix("cpu ") {
            // Of /proc/stat in proc(5): user, nice, system, idle, iowait, irq, softirq.
            let fields: Vec<u64> = host
                .split_whitespace()
                .map_while(|field| field.parse().ok())
                .collect();
            let [_, _, _, idle, wait, irq, softirq, ..] = fields[..] else {
                return None;
            };
            reading.profile.insert("host: idle".into(), idle + wait);
            let interrupts = irq + softirq;
            reading
                .profile
                .insert("host: interrupts".into(), interrupts);
        } else if let Some(interface) = line.strip_prefix("network ") {
            if let Some([[received, _], [sent, _]]) = traffic(interface) {
                reading.network = received + sent;
            }
        } else if let Some(interface) = line.strip_prefix("guest ") {
            // What the interface receives, the guest has sent.
            if let Some(both) = traffic(interface) {
                let names = ["sent", "received"].map(str::to_owned);
                reading.frames = names.into_iter().zip(both).collect();
            }
        } else if let Some((name, value)) = line.split_once(':') {
            reading.kvm.insert(name.to_owned(), value.parse().ok()?);
        }
    }
    (processes > 0).then_some(reading)
}

/// Bytes and packets of an interface, received and sent, by its line of `/proc/net/dev`. A host
/// without that interface has no such line.
fn traffic(line: &str) -> Option<[[u64; 2]; 2]> {
    // The name, eight counters of what was received, and as many of what was sent.
    let counters = line.split_whitespace().skip(1);
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

    fn text(uptime: &str, user: u64, exits: u64) -> String {
        format!(
            "{uptime} 0.03\n\
             cpu  10 0 20 {user} 5 6 7 0 0 0\n\
             101 (qemu-system (x86)) S 90 0 0 0 -1 138412416 7178 0 0 0 {user} 277 0 0 20 0 3 0 1371 \
             0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 9 0\n\
             thread 101 (qemu-system (x86)) S 90 0 0 0 -1 138412416 7178 0 0 0 0 277 0 0 20 0 3 0 1371 \
             0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n\
             thread 102 (CPU 0/KVM) S 90 0 0 0 -1 138412416 7178 0 0 0 {user} 0 0 0 20 0 3 0 1371 \
             0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {} 0\n\
             network  logging {} 9 0 0 0 0 0 0 500000 7 0 0 0 0 0 0\n\
             guest  tap0 {} {user} 0 0 0 0 0 0 100 7 0 0 0 0 0 0\nexits:{exits}\nio_exits:3461\n",
            user / 2,
            user * 1000,
            user * 60,
        )
    }

    #[test]
    fn figures_are_the_growth_in_a_second() {
        let before = parse(&text("31.00", 1000, 9000)).expect("a reading");
        let after = parse(&text("41.00", 1500, 9500)).expect("a reading");
        let figures = after.since(&before);
        assert!((figures.cpu - 0.5).abs() < 1e-9, "{figures:?}");
        let share = |what: &str| figures.profile.get(what).copied();
        assert_eq!(share("guest"), Some(0.25));
        assert_eq!(share("vCPU thread: VMM"), Some(0.25));
        assert_eq!(share("host: idle"), Some(0.5));
        assert_eq!(share("qemu-system (x86"), None, "it did nothing meanwhile");
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
    fn no_counters_are_a_gap_and_no_process_is_an_error() {
        let text = text("31.00", 1, 2);
        let (without, _) = text.split_once("exits:").expect("counters");
        let reading = parse(without).expect("a reading");
        assert!(reading.since(&reading).kvm_gap.is_some());
        assert_eq!(parse("31.00 0.03\nnetwork \nexits:1\n"), None);
        assert_eq!(parse(""), None);
    }
}
