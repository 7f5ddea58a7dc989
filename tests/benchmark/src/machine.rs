//! The machine on which it was measured, and how fast it is just now: its processors may be another's
//! too.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use procfs_core::prelude::*;
use procfs_core::{CpuInfo, KernelStats, Meminfo};
use serde::{Deserialize, Serialize};
use testbed::{Host, HostKind, Position};

use crate::host_meter::system;

/// What the figures depend on. A reader of a report must know it, and a comparison of two records
/// says where they differ. What is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MachineDescription {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// What the hosts are.
    pub(crate) hosts: String,
    pub(crate) host_kernel: String,
    /// TCP congestion control of the clients. The hosts', and the guests', is their kernels' own.
    pub(crate) clients_tcp: String,
    /// The first line of `qemu-system-x86_64 --version`, here: hosts have the same.
    pub(crate) qemu: String,
    /// The first line of `ftvm --version` in a host.
    pub(crate) ftvm: String,
    /// The commit that is checked out, with `+` if files were changed.
    pub(crate) commit: String,
}

/// What hosts are that this machine emulates.
const EMULATED: &str = "QEMU TCG, one emulated AMD processor each (cargo xtask host)";

impl MachineDescription {
    /// Looks.
    pub(crate) fn find(host: &Host, client: &Position) -> Self {
        let in_host = |argv: &[&str]| first_line(&host.check(argv).unwrap_or_default());
        let here = |argv: &[&str]| {
            let output = std::process::Command::new(argv[0])
                .args(&argv[1..])
                .output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            first_line(&String::from_utf8_lossy(&text))
        };
        let changed = here(&["git", "status", "--porcelain", "--untracked-files=no"]);
        let commit = here(&["git", "rev-parse", "--short=12", "HEAD"]);
        let processor = CpuInfo::from_file("/proc/cpuinfo").ok();
        Self {
            processor: processor
                .and_then(|all| Some(all.model_name(0)?.to_owned()))
                .unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: Meminfo::from_file("/proc/meminfo").map_or(0, |all| all.mem_total >> 20),
            kernel: first_line(
                &fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(),
            ),
            hosts: match host.kind() {
                HostKind::Qemu => EMULATED,
                HostKind::Namespace => "network namespaces of this machine",
            }
            .to_owned(),
            host_kernel: in_host(&["uname", "-r"]),
            clients_tcp: client.namespace().congestion_control().unwrap_or_default(),
            qemu: here(&["qemu-system-x86_64", "--version"]),
            ftvm: in_host(&["ftvm", "--version"]),
            commit: match changed.is_empty() {
                true => commit,
                false => format!("{commit}+"),
            },
        }
    }

    /// Whether its hosts are emulated.
    pub(crate) fn is_emulated(&self) -> bool {
        self.hosts == EMULATED
    }

    /// Names and values of all that is known.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("processor", self.processor.clone()),
            ("processors", self.processors.to_string()),
            ("memory, MiB", self.memory_mib.to_string()),
            ("kernel", self.kernel.clone()),
            ("hosts", self.hosts.clone()),
            ("hosts' kernel", self.host_kernel.clone()),
            ("clients' TCP", self.clients_tcp.clone()),
            ("QEMU", self.qemu.clone()),
            ("ftvm", self.ftvm.clone()),
            ("commit", self.commit.clone()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty() && value != "0")
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// How the machine was during a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// Steps in a microsecond of a loop that is always the same, before and after: the mean.
    pub speed: f64,
    /// Part of its processors' time that others had meanwhile, as far as it is told (steal of
    /// `/proc/stat` in proc(5)).
    pub stolen: f64,
}

/// Where others had more than this part of the machine, a measurement says little of what is measured.
const SPOILED: f64 = 0.2;

impl MachineState {
    /// Whether others had so much of the machine that the measurement is to be made again at another
    /// time.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.stolen > SPOILED
    }
}

/// The machine at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glance {
    speed: f64,
    /// Processor time since the machine's boot, and how much of it others had.
    ticks: Option<[u64; 2]>,
}

/// Looks.
pub(crate) fn glance() -> Glance {
    Glance {
        speed: speed(),
        ticks: KernelStats::from_file("/proc/stat", &system())
            .ok()
            .and_then(|stat| ticks(&stat)),
    }
}

fn ticks(stat: &KernelStats) -> Option<[u64; 2]> {
    let cpu = &stat.total;
    let counted = [cpu.iowait, cpu.irq, cpu.softirq, cpu.steal];
    // What guests had is part of the first two.
    let all = cpu.user + cpu.nice + cpu.system + cpu.idle;
    Some([all + counted.into_iter().flatten().sum::<u64>(), cpu.steal?])
}

impl Glance {
    /// How the machine was since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> MachineState {
        let stolen = before.ticks.zip(self.ticks).map(|(before, after)| {
            let [all, stolen] = [0, 1].map(|at: usize| after[at].saturating_sub(before[at]));
            stolen as f64 / all.max(1) as f64
        });
        MachineState {
            speed: f64::midpoint(before.speed, self.speed),
            stolen: stolen.unwrap_or(0.0),
        }
    }
}

/// Words of the loop's memory: more than a processor's innermost cache holds.
const WORDS: usize = 1 << 16;
/// How long it runs.
const LONG_ENOUGH: Duration = Duration::from_millis(50);
/// Steps between two looks at the clock.
const STEPS: u32 = 20_000;

/// Steps in a microsecond: each reads the word of which the last one tells, and changes it.
fn speed() -> f64 {
    let mut words: Vec<u32> = (0..WORDS as u32).collect();
    let (mut at, mut steps) = (0u32, 0u64);
    let since = Instant::now();
    while since.elapsed() < LONG_ENOUGH {
        for _ in 0..STEPS {
            let word = &mut words[at as usize % WORDS];
            // A step of a linear congruential generator (Numerical Recipes).
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) ^ *word;
            *word = word.rotate_left(1);
        }
        steps += u64::from(STEPS);
    }
    black_box(words);
    steps as f64 / since.elapsed().as_secs_f64() / 1e6
}
