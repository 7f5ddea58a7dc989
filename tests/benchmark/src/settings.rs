//! Where and with what it was measured: what the figures depend on, by name. A reader of a report
//! must know it, and two records that differ in any of it are not one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use guest_images::agent;
use procfs_core::prelude::*;
use procfs_core::{CpuInfo, KernelStats, Meminfo};
use testbed::pair::Guest;
use testbed::{Host, HostKind, Position, failover};

use crate::configuration::HEARTBEAT_MS;
use crate::drive::FIO_SEED;
use crate::host_meter::system;
use crate::options::Options;
use crate::stage::COLO_WORDS;

/// By name. What is not known is left out.
pub(crate) type Settings = BTreeMap<String, String>;

/// What hosts are, by this name.
const HOSTS: &str = "hosts";
/// Those that this machine emulates.
const EMULATED: &str = "QEMU TCG, one emulated AMD processor each (cargo xtask host)";

/// All of it.
pub(crate) fn find(options: &Options, host: &Host, client: &Position) -> Settings {
    let mut all = Settings::new();
    let mut add = |name: &str, value: Option<String>| {
        let value = value.unwrap_or_default();
        // Of what a program says of itself, the first line.
        let line = value.lines().next().unwrap_or_default().trim();
        if !line.is_empty() {
            all.insert(name.to_owned(), line.to_owned());
        }
    };
    let processor = CpuInfo::from_file("/proc/cpuinfo").ok();
    let model = processor.and_then(|all| Some(all.model_name(0)?.to_owned()));
    add("processor", model);
    let processors = std::thread::available_parallelism().ok();
    add("processors", processors.map(|all| all.to_string()));
    let memory = Meminfo::from_file("/proc/meminfo").ok();
    add(
        "memory, MiB",
        memory.map(|all| (all.mem_total >> 20).to_string()),
    );
    add(
        "kernel",
        fs::read_to_string("/proc/sys/kernel/osrelease").ok(),
    );
    let kind = match host.kind() {
        HostKind::Qemu | HostKind::Debian => EMULATED,
        HostKind::Namespace => "network namespaces of this machine",
    };
    add(HOSTS, Some(kind.to_owned()));
    let paging = match host.kind() {
        HostKind::Qemu | HostKind::Debian => "shadow, but nested for QEMU and where it is named",
        HostKind::Namespace => "this machine's",
    };
    add("hosts' paging", Some(paging.to_owned()));
    add("hosts' kernel", host.check(&["uname", "-r"]).ok());
    let words = host.check(&["cat", "/proc/cmdline"]);
    add("hosts' kernel parameters", words.ok());
    // The hosts', and the guests', is their kernels' own.
    add("clients' TCP", client.namespace().congestion_control().ok());
    // Hosts have the same.
    add("QEMU", output(&["qemu-system-x86_64", "--version"]));
    add("ftvm", host.check(&["ftvm", "--version"]).ok());
    let changed = output(&["git", "status", "--porcelain", "--untracked-files=no"]);
    let changed = changed.is_some_and(|files| !files.is_empty());
    let commit = output(&["git", "rev-parse", "--short=12", "HEAD"]);
    let with_changes = if changed { "+" } else { "" };
    add(
        "commit",
        commit.map(|commit| commit.trim().to_owned() + with_changes),
    );
    let words = |guest: Guest| Some(format!("{} {}", guest.words, agent::WORD));
    add("guest's kernel parameters", words(Guest::tools("")));
    add(
        "guest's kernel parameters, with a disk",
        words(Guest::debian("", "")),
    );
    add(
        "guest's kernel parameters, QEMU COLO, beside",
        Some(COLO_WORDS.to_owned()),
    );
    add("heartbeat timeout, ms", Some(HEARTBEAT_MS.to_owned()));
    let kills = failover::Options::default();
    let timeout = kills.heartbeat_timeout.as_millis();
    add("heartbeat timeout, kills, ms", Some(timeout.to_string()));
    add("seed of the kills' moments", Some(kills.seed.to_string()));
    add("seed of fio", Some(FIO_SEED.to_string()));
    add(
        "a measurement, s",
        Some(options.window.as_secs_f64().to_string()),
    );
    let colo = options.colo_window.as_secs_f64();
    add(
        "a measurement that compares QEMU COLO, s",
        Some(colo.to_string()),
    );
    all
}

/// What a program of this machine prints.
fn output(argv: &[&str]) -> Option<String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the hosts are emulated.
pub(crate) fn is_emulated(settings: &Settings) -> bool {
    settings.get(HOSTS).is_some_and(|hosts| hosts == EMULATED)
}

/// In what two differ, in words.
pub(crate) fn differences(there: &Settings, here: &Settings) -> Vec<String> {
    let value = |of: &Settings, name| of.get(name).map_or("unknown", String::as_str).to_owned();
    let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
    let different = names
        .into_iter()
        .filter(|name| there.get(*name) != here.get(*name));
    different
        .map(|name| format!("{name}: {}, here {}", value(there, name), value(here, name)))
        .collect()
}

/// Processor time of this machine since its boot, and how much of it others had (steal of
/// `/proc/stat` in proc(5)); none if that is not told.
pub(crate) fn processor_ticks() -> Option<[u64; 2]> {
    let cpu = KernelStats::from_file("/proc/stat", &system()).ok()?.total;
    let counted = [cpu.iowait, cpu.irq, cpu.softirq, cpu.steal];
    // What guests had is part of the first two.
    let all = cpu.user + cpu.nice + cpu.system + cpu.idle;
    Some([all + counted.into_iter().flatten().sum::<u64>(), cpu.steal?])
}
